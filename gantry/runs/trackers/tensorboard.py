"""TensorBoard: curves, settings and films in the folder `tensorboard` of the run."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.runs.trackers.protocol import TrackedRun

if TYPE_CHECKING:
    pass

FILM_WIDTH, FILM_RATE = 320, 10
"""Pixels and frames per second of films, which TensorBoard shows as animated images."""


class TensorBoard:
    """Writes event files; `tensorboard --logdir runs` shows them."""

    def start(self, run: TrackedRun) -> None:
        """Begin a file; what a killed run wrote beyond its checkpoint is no longer shown."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: SummaryWriter = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step)
        settings = json.dumps(run.config, indent=4).splitlines()
        self._writer.add_text("config", "\n".join(f"    {line}" for line in settings), run.step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def video(self, step: int, path: Path) -> None:
        """Add an animated image."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        content, (width, height) = animated(path)
        image = Summary.Image(encoded_image_string=content, width=width, height=height, colorspace=3)
        summary = Summary(value=[Summary.Value(tag="policy", image=image)])
        self._writer._get_file_writer().add_summary(summary, step)  # which `add_video` does, but for frames in memory

    def finish(self) -> None:
        """Flush to disk."""
        self._writer.close()


def animated(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Return a film as an animated GIF, small and with few frames, and its width and height."""
    import imageio.v3 as iio
    from PIL import Image

    rate = float(iio.immeta(path, plugin="FFMPEG")["fps"])
    every = max(1, round(rate / FILM_RATE))
    frames = []
    for number, frame in enumerate(iio.imiter(path, plugin="FFMPEG")):
        if number % every == 0:
            picture = Image.fromarray(frame)
            frames.append(picture.resize((FILM_WIDTH, round(FILM_WIDTH * picture.height / picture.width))))
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 * every / rate), loop=0)
    return content.getvalue(), frames[0].size
