"""A lock on a run's folder, so that two processes never train in one: it ends with the process that holds it."""

import errno
import os
import sys
import weakref
from pathlib import Path

from gantry.errors import CannotWrite, shown

if sys.platform != "win32":
    import fcntl

LOCK_FILE = ".lock"
"""What is locked where a folder itself cannot be (Windows)."""


class FolderLock:
    """Makes a folder and locks it against other processes.

    The folder itself is locked, so that the lock leaves nothing behind, follows the folder when it is moved, and ends
    with the process, however that ends. Where a file system knows no locks there is none.

    Args:
        folder: where; it and its parents are made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handle: int | None = None
        self._made: list[Path] = []  # the folders that were made, the innermost first

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._handle is not None

    def acquire(self) -> bool:
        """Lock the folder; return False where another process, or another object of this one, has it.

        Raises:
            CannotWrite: the folder cannot be made.
        """
        while True:
            try:
                self._make()
                handle = self._open()
            except FileNotFoundError:  # removed by another process between the two
                continue
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise CannotWrite(f"cannot write {shown(self._folder)}: {reason}; choose another folder") from error
            if handle is None:
                return False
            self._handle = handle
            _held.add(self)
            if self.in_place():
                return True
            self._close()  # locked a folder that its holder removed in that moment

    def in_place(self) -> bool:
        """Return whether the path still leads to the folder that was locked."""
        if self._handle is None or sys.platform == "win32":  # where a folder in use cannot be moved
            return True
        try:
            here, locked = os.stat(self._folder), os.fstat(self._handle)
        except OSError:
            return False
        return (here.st_dev, here.st_ino) == (locked.st_dev, locked.st_ino)

    def release(self) -> None:
        """Unlock the folder, and remove it where it was made by this object and nothing is in it."""
        if self._handle is None:
            return
        if self.in_place():
            if sys.platform == "win32":
                self._close()
                (self._folder / LOCK_FILE).unlink(missing_ok=True)
            for folder in self._made:
                try:
                    folder.rmdir()
                except OSError:  # something is in it
                    break
        self._close()

    def _make(self) -> None:
        for folder in reversed((self._folder, *self._folder.parents)):
            try:
                if not folder.is_dir():
                    folder.mkdir()
                    self._made.insert(0, folder)
            except FileExistsError:
                if not folder.is_dir():
                    raise

    def _open(self) -> int | None:
        """Open and lock; return None where it is locked already."""
        if sys.platform == "win32":
            import msvcrt

            handle = os.open(self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            except OSError:
                os.close(handle)
                return None
            return handle
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                os.close(handle)
                return None
        return handle

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


_held: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()
"""The locks that have been acquired."""


def _forget() -> None:
    """Close the handles in a process that an environment forked: it may outlive this one, and would keep the locks."""
    for lock in _held:
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
