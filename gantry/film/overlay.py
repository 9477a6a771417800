"""Draw the panel below a film's pictures: time, score, reward terms and actions."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]

_PANEL: Color = (16, 20, 26)
_TEXT: Color = (240, 243, 247)
_FAINT: Color = (168, 178, 190)
_TRACK: Color = (62, 70, 80)
_TERM: Color = (92, 200, 140)
_PENALTY: Color = (236, 96, 92)
_ACTION: Color = (250, 166, 62)
_ATTENTION: Color = (120, 180, 255)
_ZERO: Color = (200, 206, 214)
_WORDS_SHARE, _TERMS_SHARE, _ACTIONS_SHARE = 0.29, 0.38, 0.33
"""Fractions of the panel's width for the text, the reward terms and the actions."""
_LINES = 5
"""Largest number of lines of the panel; more bars than that stand closer together."""
_SMALLEST_FONT = 8
"""Below this height of the letters (pixels) bars have no labels."""
_LARGEST_SHARE = 0.4
"""Largest share of a film's height for the panel; a film that has no room for a line has no panel."""


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
        shares: named shares in [0, 1] that tell more than the score, and stand in its place.
        notes: further lines of text, such as which episode of a trial this is, and its physics.
        terms: named reward terms, normally in [-1, 1]; bars are clipped to that range, the numbers beside them are not.
            A negative one, a penalty, has a red bar.
        action: the action applied, shape (actions,); None hides it.
        action_names: a name for each number of the action.
        low: lower action bounds, shape (actions,) or a scalar.
        high: upper action bounds, shape (actions,) or a scalar.
        choice: in words, the action chosen of a Discrete space; empty for others.
        plan: predicted and achieved return of the current plan; None hides them.
        attention: how much was looked at each past step, the present one last, (steps,); None hides it.
        title: first line of the panel.
    """

    time: float
    score: float | None = None
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    terms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    action: np.ndarray | None = None
    action_names: Sequence[str] = ()
    low: np.ndarray | float = -1.0
    high: np.ndarray | float = 1.0
    choice: str = ""
    plan: PlanReturns | None = None
    attention: np.ndarray | None = None
    title: str = ""


@dataclasses.dataclass(frozen=True)
class _Bar:
    """A name, a track filled between two fractions of its length, and a number."""

    name: str
    number: str
    begin: float
    end: float
    color: Color
    tick: bool = False
    """Whether a tick marks the first fraction."""


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


class Panel:
    """The panel below the pictures of one film, never over them.

    Attributes:
        width: pixels.
        height: pixels, an even number; 0 where there is no room for a line of text.
    """

    def __init__(self, width: int, height: int, state: OverlayState) -> None:
        """Choose the panel's size; it stays the same during a film.

        Args:
            width: of the film, pixels.
            height: of the film or of its picture, pixels: text is proportional to it.
            state: contents like those of every frame, by the number of lines and bars.
        """
        self.width = width
        self._size = max(_SMALLEST_FONT, round(min(height / 28, width / 38)))
        self._line, self._margin = round(self._size * 1.3), round(self._size * 0.6)
        actions = 0 if state.action is None else np.asarray(state.action).size
        words = bool(state.title) + 1 + len(state.shares) + len(state.notes) + (state.plan is not None)
        lines = max(words, min(max(len(state.terms), actions), _LINES))
        most = int((_LARGEST_SHARE * height - 2 * self._margin) / self._line)
        self._strip = 2 * self._line if state.attention is not None and most > 2 else 0
        lines = min(lines, most - self._strip // self._line)
        room = width >= 12 * self._size and lines >= 1
        self._columns_height = lines * self._line + 2 * self._margin
        self.height = (self._columns_height + self._strip + 1) // 2 * 2 if room else 0

    def below(self, picture: np.ndarray, state: OverlayState) -> np.ndarray:
        """Return a picture (h, width, 3) uint8 with the panel below it, (h + height, width, 3)."""
        if not self.height:
            return picture
        return np.concatenate([picture, self.draw(state)])

    def draw(self, state: OverlayState) -> np.ndarray:
        """Return the panel (height, width, 3) uint8."""
        image = Image.new("RGB", (self.width, self.height), _PANEL)
        draw = ImageDraw.Draw(image)
        acts = state.action is not None or bool(state.choice)
        shares = [_WORDS_SHARE, _TERMS_SHARE * bool(state.terms), _ACTIONS_SHARE * acts]
        gap = 2 * self._margin
        room = self.width - 2 * self._margin - gap * (sum(share > 0 for share in shares) - 1)
        words_width, terms_width, actions_width = (int(room * share / sum(shares)) for share in shares)
        self._draw_words(draw, words_width, state)
        column = self._margin + words_width + gap
        if state.terms:
            self._draw_bars(draw, column, terms_width, [_term_bar(*term) for term in state.terms.items()])
            column += terms_width + gap
        if state.action is not None:
            self._draw_bars(draw, column, actions_width, _action_bars(state))
        elif state.choice:
            words = _fitted(state.choice, self._size, actions_width)
            draw.text((column, self._margin), words, _ACTION, _font(self._size))
        if state.attention is not None and self._strip:
            self._draw_attention(draw, np.nan_to_num(np.asarray(state.attention, np.float64).ravel()))
        return np.asarray(image)

    def _draw_attention(self, draw: ImageDraw.ImageDraw, weights: np.ndarray) -> None:
        """Draw a strip with a column for each step, the present one last, the tallest for the largest weight."""
        font, upper = _font(self._size), self._columns_height - self._margin // 2
        lower = self.height - self._margin
        words = f"looks back {len(weights) - 1} steps", f"{weights.max():.2f}"
        start = 2 * self._margin + round(font.getlength(words[0]))
        end = self.width - 2 * self._margin - round(font.getlength("0.00"))
        if end - start < len(weights):
            return
        draw.text((self._margin, upper), words[0], _FAINT, font)
        draw.text((self.width - self._margin, upper), words[1], _TEXT, font, anchor="ra")
        edges = np.linspace(start, end, len(weights) + 1).round().astype(int)
        gap = int(edges[1] - edges[0] >= 4)
        tops = lower - np.round((lower - upper) * weights / max(float(weights.max()), 1e-9))
        for left, right, top in zip(edges[:-1], edges[1:] - 1 - gap, tops, strict=True):
            draw.rectangle((left, upper, right, lower), _TRACK)
            if top < lower:
                draw.rectangle((left, top, right, lower), _ATTENTION)

    def _draw_words(self, draw: ImageDraw.ImageDraw, width: int, state: OverlayState) -> None:
        """Write the title, the time with the score, and the plan's returns, as many as there are lines for."""
        lines = [state.title] if state.title else []
        scored = state.score is not None and not state.shares
        lines.append(f"{state.time:.2f} s" + (f"   score {state.score:.0f}" if scored else ""))
        lines += [f"{name} {share:.0%}" for name, share in state.shares.items()]
        lines += state.notes
        if state.plan is not None:
            achieved = state.plan.achieved
            lines.append(f"plan {state.plan.predicted:.1f}" + ("" if achieved is None else f", got {achieved:.1f}"))
        fitting = (self._columns_height - 2 * self._margin) // self._line
        if len(lines) > fitting and state.title:
            lines = lines[1:]
        for index, line in enumerate(lines[:fitting]):
            place = self._margin, self._margin + index * self._line
            draw.text(place, _fitted(line, self._size, width), _FAINT if index else _TEXT, _font(self._size))

    def _draw_bars(self, draw: ImageDraw.ImageDraw, left: int, width: int, bars: list[_Bar]) -> None:
        """Draw bars below one another into a column; many are thinner, and very many have no labels."""
        pitch = min(float(self._line), (self._columns_height - 2 * self._margin) / len(bars))
        size = min(self._size, int(pitch / 1.2))
        labeled = size >= _SMALLEST_FONT
        font = _font(max(size, 1))
        label_width = number_width = 0
        if labeled:
            longest = max(font.getlength(bar.name) for bar in bars) + self._margin
            label_width = round(min(longest, 0.6 * width))
            if longest > label_width:  # what a comma adds to a name is left out first
                bars = [dataclasses.replace(bar, name=bar.name.partition(",")[0]) for bar in bars]
                longest = max(font.getlength(bar.name) for bar in bars) + self._margin
                label_width = round(min(longest, 0.6 * width))
            number_width = round(font.getlength("+0.00")) + self._margin // 2
        start, end = left + label_width, left + width - number_width
        thickness = max(round((0.5 if labeled else 0.7) * pitch), 1)
        for index, bar in enumerate(bars):
            row = self._margin + round(index * pitch)
            if labeled:
                draw.text((left, row), _fitted(bar.name, size, label_width - self._margin // 2), _FAINT, font)
                draw.text((left + width, row), bar.number, _TEXT, font, anchor="ra")
            upper = row + round((pitch - thickness) / 2)
            lower = upper + thickness - 1
            if end <= start:
                continue
            draw.rectangle((start, upper, end, lower), _TRACK)
            first, last = sorted((bar.begin, bar.end))
            begin, finish = start + round((end - start) * first), start + round((end - start) * last)
            if last > first:
                draw.rectangle((begin, upper, max(finish, begin + 1), lower), bar.color)
            if bar.tick:
                tick = start + round((end - start) * bar.begin)
                draw.line((tick, upper - 1, tick, lower + 1), _ZERO)


def _term_bar(name: str, value: float) -> _Bar:
    """Return a reward term's bar: as long as it is large, red where it is negative."""
    size = min(abs(float(np.nan_to_num(value))), 1.0)
    return _Bar(
        name.replace("_", " "), f"{value:.2f}".replace("-0.00", "0.00"), 0.0, size, _PENALTY if value < 0 else _TERM
    )


def _action_bars(state: OverlayState) -> list[_Bar]:
    """Return a bar for each number of the action, from zero to it, between the bounds."""
    action = np.asarray(state.action, np.float64).ravel()
    low, high = (_bound(bound, action.shape, sign) for bound, sign in ((state.low, -1.0), (state.high, 1.0)))
    span = np.where(high > low, high - low, 1.0)
    filled = np.clip((np.nan_to_num(action) - low) / span, 0.0, 1.0)
    zeros = np.clip(-low / span, 0.0, 1.0)
    names = state.action_names or [f"action {index}" if action.size > 1 else "action" for index in range(action.size)]
    return [
        _Bar(name, f"{value:+.2f}", float(zero), float(share), _ACTION, tick=True)
        for name, value, zero, share in zip(names, action, zeros, filled, strict=True)
    ]


def _bound(bound: np.ndarray | float, shape: tuple[int, ...], otherwise: float) -> np.ndarray:
    """Return a bound of the actions' bars; `otherwise` where there is none, which some spaces say by huge numbers."""
    numbers = np.broadcast_to(np.asarray(bound, np.float64).ravel(), shape)
    return np.where(np.abs(numbers) < np.finfo(np.float32).max, numbers, otherwise)
