"""A stand-in for a disk that fills up, and for a process that is killed, at the k-th operation on files."""

import contextlib
import errno
import io
import os
import pathlib
import tempfile


class Killed(BaseException):
    """The process is dead: from here on it changes no file."""


class FailingFiles:
    """Counts the operations that change files; from the `at`-th one on they fail.

    Args:
        at: which operation fails first, from 1; 0: none.
        fatal: it is a kill (half of what is being written gets written), and nothing works after it; else the disk is
            full, for this operation alone if `once`.
        once: whether operations work again after the first failure.
    """

    def __init__(self, at=0, fatal=False, once=False):
        self.at, self.fatal, self.once = at, fatal, once
        self.count = 0

    def _check(self, half=None):
        self.count += 1
        if self.at == 0 or self.count < self.at or (self.once and self.count > self.at):
            return
        if not self.fatal:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if half is not None and self.count == self.at:
            half()
        raise Killed

    @contextlib.contextmanager
    def installed(self, monkeypatch):
        """Let the operations of this process fail within the block."""

        def failing(function, half=None):
            def call(*arguments, **settings):
                self._check(None if half is None else lambda: half(*arguments))
                return function(*arguments, **settings)

            return call

        write, opened, check = pathlib.Path.write_bytes, pathlib.Path.open, self._check

        class Unbuffered(io.FileIO):
            def write(self, content):
                check(lambda: super(Unbuffered, self).write(content[: len(content) // 2]))
                return super().write(content)

        def open_to_write(path, mode="r", *arguments, **settings):
            if mode[0] in "wa":
                check()
            if settings == {"buffering": 0}:
                return Unbuffered(path, mode)
            return opened(path, mode, *arguments, **settings)

        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "write_bytes", failing(write, lambda path, data: _write(path, data[:9])))
            patch.setattr(pathlib.Path, "open", open_to_write)
            patch.setattr(tempfile, "mkstemp", failing(tempfile.mkstemp))
            patch.setattr(os, "fsync", failing(os.fsync))
            for name in ("chmod", "replace", "unlink", "mkdir", "rmdir"):
                patch.setattr(pathlib.Path, name, failing(getattr(pathlib.Path, name)))
            yield


def _write(path, data):
    handle = os.open(path, os.O_WRONLY)
    os.write(handle, data)
    os.close(handle)
