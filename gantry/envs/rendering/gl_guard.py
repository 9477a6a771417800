"""Ignore a `MUJOCO_GL` setting that would break `import mujoco` because its graphics library is missing.

MuJoCo 4.0 raises AttributeError at import when `MUJOCO_GL` is `egl` or `osmesa` and the library is absent (it catches
ImportError only), and RuntimeError for a name it does not know. Gantry binds its graphics library late and does not
need the setting, so an unusable one is removed. This module imports neither MuJoCo nor NumPy.
"""

import ctypes
import os
import sys

_SHARED_LIBRARIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "egl": (("EGL",), ("OpenGL", "GL", "GLESv2")),
    "osmesa": (("OSMesa",),),
}
"""Setting → groups of library names; one library of each group must load."""

_HARMLESS = {"", "glfw", "glx", "enable", "enabled", "on", "true", "1", "disable", "disabled", "off", "false", "0"}


def _loads(name: str) -> bool:
    """Return whether the dynamic linker finds `lib<name>.so` in any of the versions that PyOpenGL tries."""
    for suffix in ("", *(f".{version}" for version in range(9, -1, -1))):
        try:
            ctypes.CDLL(f"lib{name}.so{suffix}", mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return True
    return False


def library_present(setting: str) -> bool:
    """Return whether the shared libraries of `egl` or `osmesa` can be loaded, without importing PyOpenGL."""
    return all(any(_loads(name) for name in group) for group in _SHARED_LIBRARIES[setting])


def drop_unusable_mujoco_gl() -> str | None:
    """Remove `MUJOCO_GL` from the environment if it would make `import mujoco` fail, with one line on stderr.

    Call it before MuJoCo is first imported; later calls, and calls with the variable unset, do nothing (about a
    microsecond).

    Returns:
        The line that was written, or None if the setting was kept.
    """
    value = os.environ.get("MUJOCO_GL")
    if value is None or "mujoco" in sys.modules or not sys.platform.startswith("linux"):
        return None
    setting = value.lower().strip()
    if setting in _HARMLESS:
        return None
    if setting not in _SHARED_LIBRARIES:
        reason = "MuJoCo does not know this graphics library"
    elif not library_present(setting):
        reason = "that graphics library is not installed here"
    else:
        return None
    del os.environ["MUJOCO_GL"]
    line = f"gantry: MUJOCO_GL={value} is ignored ({reason}); rendering picks a backend that works"
    print(line, file=sys.stderr)
    return line
