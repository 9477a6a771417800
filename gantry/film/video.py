"""Write films frame by frame, as H.264 that browsers play or as GIF, atomically and in constant memory."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from gantry.errors import GantryError, shown
from gantry.files import beside, remove_abandoned, replacing
from gantry.types import Json

FORMATS = (".mp4", ".gif")
"""Supported file suffixes."""
_GIF_FRAMES_PER_SECOND = 50.0
"""Largest frame rate of a GIF; browsers slow down those with frames shorter than 20 ms."""
_BT709 = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709")


class _Abandoned(Exception):
    """Raised inside `replacing` so that it removes its temporary file."""


class VideoWriter:
    """A context manager that streams frames into an encoder; the file appears when the block ends.

    An exception in the block or a failing encoder leaves no new file and keeps an older one of that name.

    Attributes:
        path: path of the film.
        frames: number of frames added so far.
    """

    def __init__(self, path: str | Path, fps: float, size: tuple[int, int]) -> None:
        """Check the settings; the encoder starts when the block is entered.

        Args:
            path: the film's path, ending in .mp4 or .gif.
            fps: frames per second.
            size: width and height of the frames, pixels. H.264 needs even sides; odd ones are padded by a black pixel.

        Raises:
            GantryError: an unknown suffix, a frame rate that is not positive, or an empty size.
        """
        self.path = Path(path)
        if self.path.suffix.lower() not in FORMATS:
            raise GantryError(f"cannot write {self.path}: a film's name ends in .mp4 or .gif")
        if not (np.isfinite(fps) and fps > 0):
            raise GantryError(f"a film needs a positive frame rate, not {fps:g}")
        width, height = size
        if width < 1 or height < 1:
            raise GantryError(f"a film's width and height must be above 0, not {width}×{height}")
        self.frames = 0
        self._fps, self._width, self._height = float(fps), int(width), int(height)
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        remove_abandoned(self.path.parent)
        self._place = replacing(self.path)
        self._temporary = self._place.__enter__()
        try:
            self._log: IO[bytes] = self._stack.enter_context(tempfile.TemporaryFile())
            if self.path.suffix.lower() == ".mp4":
                self._start(_mp4_arguments(self._temporary))
            else:
                # The palette depends on every frame, so the frames are first written to a lossless file.
                folder = beside(self._temporary)
                folder.mkdir()
                self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
                self._lossless = folder / "frames.mkv"
                self._start(["-c:v", "ffv1", "-pix_fmt", "bgr0", str(self._lossless)])
        except BaseException:
            self._abandon()
            raise
        return self

    def add(self, frame: np.ndarray) -> None:
        """Append one frame, (height, width, 3) uint8.

        Raises:
            ValueError: the frame has another shape or type.
            GantryError: the encoder stopped, for example because the disk is full.
        """
        expected = (self._height, self._width, 3)
        if frame.shape != expected or frame.dtype != np.uint8:
            raise ValueError(f"a frame is {expected} uint8, not {frame.shape} {frame.dtype}")
        assert self._process is not None, "frames are added within the `with` block"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError as error:
            self._process.wait()
            raise self._failure() from error
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandon()
            return
        try:
            self._finish()
        except BaseException:
            self._abandon()
            raise
        self._stack.close()
        self._place.__exit__(None, None, None)

    def _start(self, output: list[str]) -> None:
        """Start an encoder that reads raw frames from a pipe."""
        size = f"{self._width}x{self._height}"
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{self._fps:.6f}", "-i", "pipe:0"]
        self._process = subprocess.Popen(
            [*_encoder(), *source, *output], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log
        )

    def _finish(self) -> None:
        """Wait for the encoder, and for a GIF convert the lossless frames with their palette.

        Raises:
            GantryError: no frame was added, or an encoder failed.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        if self.frames == 0:
            raise GantryError(f"cannot write {self.path}: no frame was added")
        try:
            self._process.stdin.close()
        except OSError as error:
            self._process.wait()
            raise self._failure() from error
        if self._process.wait() != 0:
            raise self._failure()
        if self.path.suffix.lower() == ".gif":
            palette = self._lossless.with_name("palette.png")
            rate = f"fps={min(self._fps, _GIF_FRAMES_PER_SECOND):.6f}"
            lossless = ["-i", str(self._lossless)]
            self._convert([*lossless, "-vf", "palettegen=stats_mode=full", "-update", "1", str(palette)])
            palette_filter = "paletteuse=dither=bayer:bayer_scale=4:diff_mode=rectangle"
            graph = ["-filter_complex", f"[0:v]{rate}[frames];[frames][1:v]{palette_filter}"]
            self._convert([*lossless, "-i", str(palette), *graph, "-loop", "0", "-f", "gif", str(self._temporary)])

    def _convert(self, arguments: list[str]) -> None:
        """Run the encoder on files and wait for it."""
        result = subprocess.run(
            [*_encoder(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            check=False,
        )
        if result.returncode != 0:
            raise self._failure()

    def _failure(self) -> GantryError:
        """Return the encoder's last message as a one-line error."""
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        full = next((line for line in lines if "No space left" in line), None)
        reason = "the disk is full; free some space" if full else (lines[-1] if lines else "it was terminated")
        return GantryError(f"cannot write {self.path}: the video encoder stopped: {reason}")

    def _abandon(self) -> None:
        """Kill the encoder and remove everything that was written."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            process.wait()
        self._stack.close()
        abandoned = _Abandoned()
        self._place.__exit__(_Abandoned, abandoned, None)


def film_frames(path: Path) -> Generator[np.ndarray, None, None]:
    """Yield the frames (height, width, 3) uint8 of a film, in its own size.

    Raises:
        GantryError: it cannot be read.
    """
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    try:
        width, height = next(reader)["size"]
        for frame in reader:
            yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
    except (OSError, ValueError, RuntimeError) as error:
        raise GantryError(f"cannot read {path}: it is damaged or no film") from error
    finally:
        reader.close()


def film_facts(path: Path) -> Json:
    """Return a film's size in pixels, its frames, playing time, frame rate and codec; every frame is read.

    Raises:
        GantryError: it is damaged, or no film.
    """
    import imageio_ffmpeg

    try:
        reader = imageio_ffmpeg.read_frames(str(path))
        facts = next(reader)
        reader.close()
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    except (OSError, ValueError, RuntimeError, StopIteration) as error:
        raise GantryError(f"{shown(path)} is damaged, or no film") from error
    width, height = facts["size"]
    return {
        "width": width,
        "height": height,
        "frames": frames,
        "seconds": seconds,
        "frames per second": facts["fps"],
        "codec": facts["codec"],
    }


def _mp4_arguments(path: Path) -> list[str]:
    """Return encoder arguments: H.264, even sides, standard colors, and the index first for playback while loading."""
    filters = "pad=ceil(iw/2)*2:ceil(ih/2)*2,scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"
    codec = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-preset", "veryfast"]
    return ["-vf", filters, *codec, *_BT709, "-movflags", "+faststart", "-f", "mp4", str(path)]


def _encoder() -> list[str]:
    """Return the command of imageio-ffmpeg's encoder with the common settings.

    Raises:
        GantryError: there is none for this platform.
    """
    import imageio_ffmpeg

    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise GantryError("there is no video encoder; reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE") from error
    return [program, "-y", "-hide_banner", "-loglevel", "error", "-nostats"]
