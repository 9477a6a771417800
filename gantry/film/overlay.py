"""Draw a panel along the bottom of a film's frames: time, score, reward terms and actions."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]

_PANEL: Color = (16, 20, 26)
_PANEL_OPACITY = 0.66
_TEXT: Color = (240, 243, 247)
_FAINT: Color = (168, 178, 190)
_TRACK: Color = (62, 70, 80)
_TERM: Color = (92, 200, 140)
_ACTION: Color = (250, 166, 62)
_ZERO: Color = (200, 206, 214)
_WORDS_SHARE, _TERMS_SHARE, _ACTIONS_SHARE = 0.29, 0.41, 0.30
"""Fractions of the panel's width for the text, the reward terms and the actions."""
_MAX_LABELED_BARS = 6
"""Largest number of bars with labels; more bars are thinner and unlabeled."""


@dataclasses.dataclass(frozen=True)
class PlanReturns:
    """The return that a plan predicted, beside the one that followed.

    Attributes:
        predicted: undiscounted return over the plan's horizon.
        achieved: return over the same control steps, or None where the episode ends before the horizon.
    """

    predicted: float
    achieved: float | None


@dataclasses.dataclass(frozen=True)
class OverlayState:
    """Contents of the panel in one frame.

    Attributes:
        time: simulated time, s.
        score: score so far; None hides it.
        terms: named reward terms, normally in [0, 1]; bars are clipped to that range, the numbers beside them are not.
        action: the action applied, shape (actions,); None hides it.
        low: lower action bounds, shape (actions,) or a scalar.
        high: upper action bounds, shape (actions,) or a scalar.
        plan: predicted and achieved return of the current plan; None hides them.
        title: first line of the panel.
    """

    time: float
    score: float | None = None
    terms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    action: np.ndarray | None = None
    low: np.ndarray | float = -1.0
    high: np.ndarray | float = 1.0
    plan: PlanReturns | None = None
    title: str = ""


@functools.lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=512)
def _fitted(text: str, size: int, width: int) -> str:
    """Return `text`, shortened with an ellipsis to at most `width` pixels."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Sizes in pixels, proportional to the frame's size."""

    font: int
    line: int
    margin: int
    panel: Box


def _layout(height: int, width: int, state: OverlayState) -> _Layout:
    font = max(8, round(min(height / 28, width / 38)))
    line, margin = round(font * 1.3), round(font * 0.6)
    actions = 0 if state.action is None else np.asarray(state.action).size
    lines = bool(state.title) + 1 + (state.plan is not None)
    rows = max(lines, min(max(len(state.terms), actions), _MAX_LABELED_BARS), 1)
    top = max(height - margin - rows * line - 2 * margin, 0)
    return _Layout(font, line, margin, (margin, top, width - margin, height - margin))


def panel_box(height: int, width: int, state: OverlayState) -> Box:
    """Return the pixel box that `draw_overlay` may change: left, top, right, bottom (the last two exclusive)."""
    return _layout(height, width, state).panel


def draw_overlay(frame: np.ndarray, state: OverlayState) -> np.ndarray:
    """Return a copy of `frame`, (height, width, 3) uint8, with the panel drawn over it.

    Pixels outside `panel_box` are unchanged.
    """
    height, width = frame.shape[:2]
    layout = _layout(height, width, state)
    left, top, right, bottom = layout.panel
    result = frame.copy()
    if right - left < 4 * layout.margin or bottom <= top:
        return result  # the frame is too small for text
    region = result[top:bottom, left:right]
    # Blend in 16 bits; the scene stays visible through the panel.
    kept = round(256 * (1 - _PANEL_OPACITY))
    shade = np.array([round(256 * _PANEL_OPACITY * channel) for channel in _PANEL], np.uint16)
    image = Image.fromarray(((region.astype(np.uint16) * np.uint16(kept) + shade) >> 8).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    margin = layout.margin
    inner_width, inner_height = right - left - 2 * margin, bottom - top - 2 * margin
    action = None if state.action is None else np.asarray(state.action, np.float64).ravel()
    shares = [_WORDS_SHARE, _TERMS_SHARE * bool(state.terms), _ACTIONS_SHARE * (action is not None)]
    gap = 2 * margin
    room = inner_width - gap * (sum(share > 0 for share in shares) - 1)
    words_width, terms_width, actions_width = (int(room * share / sum(shares)) for share in shares)
    _draw_words(draw, layout, words_width, state)
    column = margin + words_width + gap
    if state.terms:
        bars = [(name, f"{value:.2f}", 0.0, min(max(value, 0.0), 1.0)) for name, value in state.terms.items()]
        _draw_bars(draw, layout, (column, margin, terms_width, inner_height), bars, _TERM, None)
        column += terms_width + gap
    if action is not None:
        low, high = (_bound(bound, action.shape, sign) for bound, sign in ((state.low, -1.0), (state.high, 1.0)))
        span = np.where(high > low, high - low, 1.0)
        filled = np.clip((np.nan_to_num(action) - low) / span, 0.0, 1.0)
        zeros = np.clip(-low / span, 0.0, 1.0)
        bars = [
            ("action" if action.size == 1 else f"action {index}", f"{value:+.2f}", float(zeros[index]), float(share))
            for index, (value, share) in enumerate(zip(action, filled, strict=True))
        ]
        _draw_bars(draw, layout, (column, margin, actions_width, inner_height), bars, _ACTION, _ZERO)
    region[:] = np.asarray(image)
    return result


def _bound(bound: np.ndarray | float, shape: tuple[int, ...], otherwise: float) -> np.ndarray:
    """Return a bound of the actions' bars; `otherwise` where there is none, which some spaces say by huge numbers."""
    numbers = np.broadcast_to(np.asarray(bound, np.float64).ravel(), shape)
    return np.where(np.abs(numbers) < np.finfo(np.float32).max, numbers, otherwise)


def _draw_words(draw: ImageDraw.ImageDraw, layout: _Layout, width: int, state: OverlayState) -> None:
    """Write the title, time, score and plan returns into the panel's first column."""
    row = layout.margin
    font = _font(layout.font)
    if state.title:
        draw.text((layout.margin, row), _fitted(state.title, layout.font, width), _TEXT, font)
        row += layout.line
    words = f"{state.time:5.2f} s"
    if state.score is not None:
        words += f"   score {state.score:.0f}"
    draw.text((layout.margin, row), _fitted(words, layout.font, width), _TEXT if not state.title else _FAINT, font)
    if state.plan is not None:
        row += layout.line
        achieved = state.plan.achieved
        words = f"plan {state.plan.predicted:.1f}" + ("" if achieved is None else f", got {achieved:.1f}")
        draw.text((layout.margin, row), _fitted(words, layout.font, width), _FAINT, font)


def _draw_bars(
    draw: ImageDraw.ImageDraw,
    layout: _Layout,
    area: Box,
    bars: list[tuple[str, str, float, float]],
    color: Color,
    zero_color: Color | None,
) -> None:
    """Draw one bar per row: a name, a track filled between two fractions of its length, and a number.

    Args:
        draw: target image.
        layout: sizes.
        area: left, top, width, height in pixels.
        bars: for each bar its name, its number as text, and the two fractions of the track between which it is filled.
        color: fill color.
        zero_color: color of a tick mark at the first fraction; None draws none.
    """
    left, top, width, height = area
    if not bars:
        return
    labeled = len(bars) <= _MAX_LABELED_BARS
    pitch = layout.line if labeled else height / len(bars)
    font = _font(layout.font)
    longest = max(font.getlength(name) for name, *_ in bars) + layout.margin
    label_width = round(min(longest, 0.55 * width)) if labeled else 0
    number_width = round(font.getlength("+0.00")) + layout.margin // 2 if labeled else 0
    start, end = left + label_width, left + width - number_width
    thickness = max(round((0.5 if labeled else 0.7) * pitch), 1)
    for index, (name, number, first, second) in enumerate(bars):
        row = top + round(index * pitch)
        if labeled:
            draw.text((left, row), _fitted(name, layout.font, label_width - layout.margin // 2), _FAINT, font)
            draw.text((left + width, row), number, _TEXT, font, anchor="ra")
        upper = row + round((pitch - thickness) / 2)
        lower = upper + thickness - 1
        if end <= start:
            continue
        draw.rectangle((start, upper, end, lower), _TRACK)
        begin, finish = (start + round((end - start) * share) for share in (min(first, second), max(first, second)))
        if finish > begin:
            draw.rectangle((begin, upper, finish, lower), color)
        if zero_color is not None:
            tick = start + round((end - start) * first)
            draw.line((tick, upper - 1, tick, lower + 1), zero_color)
