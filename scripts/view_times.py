"""How long `gantry view` takes to its first picture in headless Chromium, and what of that is the browser's own.

    python -m scripts.view_times RUN [--repeat 3]

For each repetition, in seconds after the command: the address; the page's navigation; the first picture; the policy's
first action. First in a Chromium that already runs, and has drawn something, as that of most people has; then in one
that is started together with the command; then the same for an empty page with one WebGL triangle in another new
Chromium, which is what any page that draws would take there.
"""

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import browser

TRIANGLE = """new Promise(done => {
  const canvas = document.body.appendChild(document.createElement('canvas'));
  const gl = canvas.getContext('webgl2', {antialias: false});
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, 'void main() { gl_Position = vec4(0, 0, 0, 1); }'],
      [gl.FRAGMENT_SHADER, 'void main() { gl_FragColor = vec4(1); }']]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text); gl.compileShader(shader); gl.attachShader(program, shader);
  }
  gl.linkProgram(program); gl.useProgram(program); gl.drawArrays(gl.TRIANGLES, 0, 3);
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));  // which waits until it is drawn
  done(true);
})"""
"""Draws one triangle on an empty page."""


def seconds_of(run: str, profile: Path, running: bool) -> dict[str, float]:
    """Return when what happened, in seconds after the command began, in a browser that was `running` or is started."""
    words = [sys.executable, "-m", "gantry", "view", run]
    found: dict[str, float] = {}

    def note(name: str) -> None:
        found[name] = time.perf_counter() - began

    with contextlib.ExitStack() as stack:
        if running:
            opened = stack.enter_context(browser.chromium(profile))
            tab = opened.tab()
            tab.open("about:blank")
            tab.evaluate(TRIANGLE)
        began = time.perf_counter()
        process = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        stack.callback(process.terminate)
        stdout, addresses = process.stdout, list[str]()
        assert stdout is not None

        def listen() -> None:
            addresses.append(stdout.readline().strip())
            note("address")

        listening = threading.Thread(target=listen)
        listening.start()
        if not running:
            opened = stack.enter_context(browser.chromium(profile))
            note("Chromium")
            tab = opened.tab()
        listening.join()
        tab.open(addresses[0])
        note("navigation")
        tab.wait("typeof pictures !== 'undefined' && pictures > 0", 60)
        note("first picture")
        tab.wait("document.body.dataset.steps > 0", 60)
        note("first action")
        time.sleep(5)
        found["pictures/s"] = float(tab.evaluate("document.body.dataset.rate"))
    return found


def seconds_of_empty_page(profile: Path) -> dict[str, float]:
    """Return the same for a page that draws one triangle, and nothing else."""
    began = time.perf_counter()
    with browser.chromium(profile) as opened:
        tab = opened.tab()
        tab.open("about:blank")
        tab.evaluate(TRIANGLE)
        return {"first picture of an empty page": time.perf_counter() - began}


def main(run: Annotated[str, tyro.conf.Positional], repeat: int = 3) -> None:
    """Print the times of a run's first picture."""
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            _print(seconds_of(run, Path(folder) / "one", running=True))
            _print(seconds_of(run, Path(folder) / "two", running=False))
            _print(seconds_of_empty_page(Path(folder) / "three"))


def _print(times: dict[str, float]) -> None:
    print(", ".join(f"{name} {value:.2f}" for name, value in times.items()), flush=True)


if __name__ == "__main__":
    tyro.cli(main)
