"""Learned dynamics: how features change under an action, and whole futures imagined from that.

Source: PETS (Chua et al. 2018, arXiv:1805.12114), section 5: trajectory sampling. A plan is tried out on a few
particles, each of which follows one member of the ensemble throughout (TS∞) or another one at every step (TS1).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from gantry.agents.agent import Shapes, prefixed, under
from gantry.agents.models.ensemble import Ensemble, EnsembleConfig, Fit, moments
from gantry.agents.models.kinematics import Kinematics

Sampling = Literal["ts1", "ts_infinity"]

CIRCLE_ERROR = 1e-3
"""How far from 1 the length of a cosine and a sine may be, which are stored in single precision."""
FARTHEST = 1e4
"""A feature that is imagined farther than this from what the data show, in their deviations, has exploded."""


class LearnedDynamics:
    """Features (d,) and action (a,) → the features a decision later, from an ensemble that predicts the change.

    What the data show without exception is kept up in what is imagined: a cosine and a sine stay on their circle, and
    columns that only ever hold whole numbers do so in imagination too. What follows from joint angles, where these are
    named, is neither shown to the networks nor asked of them.

    Attributes:
        ensemble: of networks [features, action] → change of the features.
        circle: (d,) bool, columns i that hold, with i + 1, a cosine and a sine.
        whole: (d,) bool, columns of whole numbers.
        kinematics: what follows from joint angles; None where no angles are named.
        center, scale: (d,) mean and deviation of the features learned from.
    """

    def __init__(
        self,
        features: int,
        actions: int,
        config: EnsembleConfig,
        generator: torch.Generator,
        angles: Sequence[int] = (),
    ) -> None:
        self.features, self.actions = features, actions
        self.ensemble = Ensemble(features + actions, features, config, generator)
        self.circle = torch.zeros(features, dtype=torch.bool)
        self.whole = torch.zeros(features, dtype=torch.bool)
        self.kinematics = Kinematics(features, angles) if angles else None
        self.center, self.scale = torch.zeros(features), torch.ones(features)
        self._note_columns()

    def fit(
        self, features: Tensor, actions: Tensor, following: Tensor, held_out: Tensor, generator: torch.Generator
    ) -> Fit:
        """Fit to transitions (N, d), (N, a), (N, d); `held_out` (N,) bool says which only judge.

        Raises:
            GantryError: as `Ensemble.fit`.
        """
        inputs, targets, hidden = torch.cat([features, actions], 1), following - features, None
        if self.kinematics is not None and bool((features.isfinite() & following.isfinite()).all()):
            self.kinematics.fit(features, following)
            targets[:, self.kinematics.columns] = 0.0
            hidden = torch.cat([self.kinematics.columns, torch.zeros(self.actions, dtype=torch.bool)])
        fit = self.ensemble.fit(inputs, targets, held_out, generator, hidden)
        self.center, self.scale = moments(features)
        seen = torch.cat([features, following])
        self.circle, self.whole = circle_columns(seen), whole_columns(seen)
        self._note_columns()
        return fit

    def _note_columns(self) -> None:
        self._pairs = self.circle.nonzero()[:, 0].tolist()
        self._rounds = bool(self.whole.any())

    def predict(self, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Each member's mean of the following features and its deviation, (E, B, d), for (B, d) and (B, a)."""
        inputs = torch.cat([features, actions], 1).expand(self.ensemble.config.members, -1, -1)
        change, log_variance = self.ensemble.predict(inputs)
        mean = features + change
        return mean if self.kinematics is None else self.kinematics.applied(mean), (0.5 * log_variance).exp()

    def rollout(
        self,
        start: Tensor,
        actions: Tensor,
        particles: int,
        sampling: Sampling = "ts_infinity",
        noise: bool = True,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Imagine futures; differentiable with respect to start and actions.

        Args:
            start: (m, d) features.
            actions: (m, H, a).
            particles: p, futures of each plan, spread over the members.
            sampling: which member a particle follows.
            noise: draw from the predicted Gaussians; else follow their means.
            generator: of noise and members.

        Returns:
            (H + 1, m, p, d), the first of them `start`.
        """
        number, horizon, _ = actions.shape
        members, used = self.ensemble.config.members, number * particles
        slots = -(-used // members)
        # Particle j follows member j mod E, so that the particles of one plan follow different ones.
        index = torch.arange(slots * members).clamp(max=used - 1).view(slots, members).T.flatten() // particles
        state = start[index].view(members, slots, -1)
        pushes = actions[index].view(members, slots, horizon, -1).permute(2, 0, 1, 3)
        turns = [0] * horizon
        if sampling == "ts1":  # in step h particle j follows member j + turns[h]
            turns = torch.randint(members, (horizon,), generator=generator).tolist()
            pushes = torch.stack([push.roll(turn, 0) for push, turn in zip(pushes, turns, strict=True)])
        width = self.ensemble.config.hidden_sizes[0]
        foreknown = self.ensemble.foreknown(pushes.transpose(0, 1).reshape(members, horizon * slots, -1))
        ahead = foreknown.view(members, horizon, slots, width).unbind(1)
        path = [state]
        for turn, known in zip(turns, ahead, strict=True):
            now = state.roll(turn, 0) if turn else state
            if noise:
                change, log_variance = self.ensemble.predict(now, known)
                drawn = torch.randn(change.shape, generator=generator)
                change = torch.addcmul(change, drawn, (0.5 * log_variance).exp())
            else:
                change = self.ensemble.mean(now, known)
            state = self._corrected(state + (change.roll(-turn, 0) if turn else change))
            path.append(state)
        in_turn = torch.stack(path).transpose(1, 2).reshape(horizon + 1, slots * members, -1)
        futures = in_turn[:, :used].view(horizon + 1, number, particles, -1)
        # The networks do not look at what follows from the angles, so that it can wait until here.
        return futures if self.kinematics is None else self.kinematics.applied(futures)

    def _corrected(self, features: Tensor) -> Tensor:
        """The same features (..., d) with what the data show without exception."""
        for column in self._pairs:
            pair = features[..., column : column + 2]
            length = torch.linalg.vector_norm(pair, dim=-1, keepdim=True).clamp(min=CIRCLE_ERROR)
            features = features.slice_scatter(pair / length, -1, column, column + 2)
        return torch.where(self.whole, features.round(), features) if self._rounds else features

    def exploded(self, path: Tensor) -> Tensor:
        """Which of imagined features (..., d) are not finite, or farther away than anything like the data, (...)."""
        return ~(((path - self.center) / self.scale).abs() < FARTHEST).all(-1)

    # Saving

    def state(self) -> dict[str, Tensor]:
        """Copies of all that predictions depend on."""
        own = {name: getattr(self, name).clone() for name in ("circle", "whole", "center", "scale")}
        kinematics = {} if self.kinematics is None else prefixed("kinematics", self.kinematics.state())
        return {**self.ensemble.state(), **own, **kinematics}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.ensemble.load_state(tensors)
        for name in ("circle", "whole", "center", "scale"):
            setattr(self, name, tensors[name].clone())
        if self.kinematics is not None:
            self.kinematics.load_state(under(tensors, "kinematics"))
        self._note_columns()

    @staticmethod
    def shapes(features: int, actions: int, config: EnsembleConfig, angles: Sequence[int] = ()) -> Shapes:
        """Name, shape and type of each tensor of `state`."""
        shapes = Ensemble.shapes(features + actions, features, config)
        shapes.update({name: ((features,), torch.bool) for name in ("circle", "whole")})
        shapes.update({name: ((features,), torch.float32) for name in ("center", "scale")})
        if angles:
            parts = Kinematics.shapes(features, angles)
            shapes.update({f"kinematics.{name}": shape for name, shape in parts.items()})
        return shapes


def circle_columns(features: Tensor) -> Tensor:
    """Which columns i of features (N, d) hold, with i + 1, the cosine and the sine of an angle that varies, (d,)."""
    length = features[:, :-1].square() + features[:, 1:].square()
    on_circle = (length - 1.0).abs().amax(0) < CIRCLE_ERROR
    varies = features.std(0, correction=0) > CIRCLE_ERROR
    found = torch.zeros(features.shape[1], dtype=torch.bool)
    for column in range(features.shape[1] - 1):
        free = column == 0 or not bool(found[column - 1])
        found[column] = free and bool(on_circle[column] & varies[column] & varies[column + 1])
    return found


def whole_columns(features: Tensor) -> Tensor:
    """Which columns of features (N, d) hold whole numbers alone, (d,)."""
    return (features == features.round()).all(0)
