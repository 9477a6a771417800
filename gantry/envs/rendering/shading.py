"""Shading of the ray caster: materials, textures on planes, sky, haze and lights.

The lighting model is that of MuJoCo's classic renderer (fixed-function OpenGL: emission + ambient + diffuse + Blinn
highlight, no gamma), so that a model looks alike with every backend. Vectors have one component per row, shape (3, n),
and every formula is elementwise: a pixel's value never depends on which others are computed with it.
"""

import dataclasses

import mujoco
import numpy as np

from gantry.envs.rendering.scene import View

Array = np.ndarray

_DEFAULT_RGBA = (0.5, 0.5, 0.5, 1.0)
_SKY_ZENITH, _SKY_HORIZON = (0.45, 0.62, 0.82), (0.88, 0.92, 0.96)
_HAZE_RADIUS = 0.7
"""Where haze hides an infinite plane, in far-plane distances: about where MuJoCo's OpenGL renderer clips it."""


def dot(left: Array, right: Array) -> Array:
    """Return the inner products of the columns of two (3, n) arrays, or of one with a (3,) vector, shape (n,)."""
    return left[0] * right[0] + left[1] * right[1] + left[2] * right[2]


@dataclasses.dataclass(frozen=True)
class Light:
    """A light of the abstract scene, in the world frame (m; colors in [0, 1])."""

    position: tuple[float, ...]
    direction: tuple[float, ...]
    kind: int
    attenuation: tuple[float, ...]
    cutoff: float
    exponent: float
    ambient: tuple[float, ...]
    diffuse: tuple[float, ...]
    specular: tuple[float, ...]
    casts_shadow: bool
    radius: float

    @property
    def directional(self) -> bool:
        """Whether the light's rays are parallel."""
        return self.kind == int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)


def read_lights(scene: mujoco.MjvScene) -> tuple[Light, ...]:
    """Return the scene's lights, including the headlight, in MuJoCo's order, without image-based ones, as OpenGL."""
    lights = []
    for light in (scene.lights[index] for index in range(scene.nlight)):
        if int(light.type) == int(mujoco.mjtLightType.mjLIGHT_IMAGE):
            continue
        direction = np.array(light.dir, np.float64)
        length = float(np.linalg.norm(direction))
        lights.append(
            Light(
                position=tuple(float(value) for value in light.pos),
                direction=tuple(float(value) for value in direction / (length or 1.0)),
                kind=int(light.type),
                attenuation=tuple(float(value) for value in light.attenuation),
                cutoff=float(light.cutoff),
                exponent=float(light.exponent),
                ambient=tuple(float(value) for value in light.ambient),
                diffuse=tuple(float(value) for value in light.diffuse),
                specular=tuple(float(value) for value in light.specular),
                casts_shadow=bool(light.castshadow) and not light.headlight,
                radius=float(light.bulbradius),
            )
        )
    return tuple(lights)


def visible_colors(model: mujoco.MjModel) -> Array:
    """Return the color and opacity of every geom as MuJoCo draws it, shape (ngeom, 4).

    A geom has its material's color unless its own differs from the default gray.
    """
    rgba = model.geom_rgba.astype(np.float64)
    has_material = model.geom_matid >= 0
    default = np.all(model.geom_rgba == np.array(_DEFAULT_RGBA, np.float32), axis=1)
    from_material = has_material & default
    rgba[from_material] = model.mat_rgba[model.geom_matid[from_material]]
    return rgba


class PlaneTexture:
    """A 2-D texture on a plane; a checkerboard is filtered exactly, others by bilinear lookup in a mipmap pyramid."""

    def __init__(self, pixels: Array, scale: tuple[float, float]) -> None:
        """Store `pixels` (height, width, 3) in [0, 1], repeated `scale` times per meter along the plane's x and y."""
        self._scale = scale
        half_height, half_width = pixels.shape[0] // 2, pixels.shape[1] // 2
        first, second = pixels[0, 0], pixels[0, -1]
        quadrants = np.empty_like(pixels)
        quadrants[:half_height, :half_width] = quadrants[half_height:, half_width:] = first
        quadrants[:half_height, half_width:] = quadrants[half_height:, :half_width] = second
        self._checker = (first, second) if np.array_equal(quadrants, pixels) else None
        self._pyramid = [pixels]
        while min(self._pyramid[-1].shape[:2]) > 1:
            finer = self._pyramid[-1]
            finer = finer[: finer.shape[0] // 2 * 2, : finer.shape[1] // 2 * 2]
            self._pyramid.append(0.25 * (finer[::2, ::2] + finer[1::2, ::2] + finer[::2, 1::2] + finer[1::2, 1::2]))

    def color(self, x: Array, y: Array, width_x: Array, width_y: Array) -> Array:
        """Return the mean color (3, n) over boxes centered at plane coordinates (x, y), m, of the given widths, m."""
        across, along = 0.5 * self._scale[0], 0.5 * self._scale[1]  # MuJoCo counts repeats over two units
        s, t = across * x - 0.5, -along * y - 0.5
        size_s, size_t = np.maximum(across * width_x, 1e-9), np.maximum(along * width_y, 1e-9)
        if self._checker is not None:
            first, second = self._checker
            sign = _mean_square_wave(s, size_s) * _mean_square_wave(t, size_t)
            return np.stack([0.5 * (a + b) + 0.5 * (a - b) * sign for a, b in zip(first, second, strict=True)])
        texels = np.maximum(size_s * self._pyramid[0].shape[1], size_t * self._pyramid[0].shape[0])
        level = np.clip(np.log2(np.maximum(texels, 1.0)), 0, len(self._pyramid) - 1).astype(np.intp)
        result = np.empty((3, len(s)))
        for index in np.unique(level):
            chosen = level == index
            result[:, chosen] = _bilinear(self._pyramid[index], s[chosen], t[chosen])
        return result


def _mean_square_wave(position: Array, width: Array) -> Array:
    """Return the mean over [position ± width/2] of the wave that is 1 on [0, ½) and -1 on [½, 1), with period 1."""

    def integral(upper: Array) -> Array:
        return 0.5 - np.abs(upper - np.floor(upper) - 0.5)

    return (integral(position + 0.5 * width) - integral(position - 0.5 * width)) / width


def _bilinear(pixels: Array, s: Array, t: Array) -> Array:
    """Return the colors (3, n) of a repeating texture (height, width, 3) at texture coordinates."""
    height, width = pixels.shape[:2]
    column, row = s * width - 0.5, t * height - 0.5
    left, low = np.floor(column), np.floor(row)
    right_share, low_share = column - left, row - low
    columns = left.astype(np.intp) % width, (left.astype(np.intp) + 1) % width
    rows = low.astype(np.intp) % height, (low.astype(np.intp) + 1) % height
    upper = pixels[rows[0], columns[0]].T * (1 - right_share) + pixels[rows[0], columns[1]].T * right_share
    lower = pixels[rows[1], columns[0]].T * (1 - right_share) + pixels[rows[1], columns[1]].T * right_share
    return upper * (1 - low_share) + lower * low_share


class Sky:
    """The background of rays that hit nothing: the model's skybox, else a gradient."""

    def __init__(self, model: mujoco.MjModel) -> None:
        """Read the model's skybox."""
        self._faces: Array | None = None
        for index in np.flatnonzero(model.tex_type == int(mujoco.mjtTexture.mjTEXTURE_SKYBOX)):
            pixels = texture_pixels(model, int(index))
            side = model.tex_width[index]
            faces = pixels.reshape(-1, side, side, 3)
            self._faces = faces if len(faces) == 6 else np.repeat(faces, 6, axis=0)
            break

    def color(self, directions: Array) -> Array:
        """Return the colors (3, n) in unit directions (3, n)."""
        if self._faces is None:
            share = np.sqrt(np.clip(directions[2], 0.0, 1.0))
            result = np.stack([h + (z - h) * share for z, h in zip(_SKY_ZENITH, _SKY_HORIZON, strict=True)])
        else:
            result = self._from_faces(self._faces, directions)
        return result

    @staticmethod
    def _from_faces(faces: Array, directions: Array) -> Array:
        # OpenGL's cube map, turned so that its y axis is the world's z: (x, y, z) becomes (x, z, -y).
        x, y, z = directions[0], directions[2], -directions[1]
        magnitude = np.abs(np.stack([x, y, z]))
        axis = np.argmax(magnitude, axis=0)
        major = np.choose(axis, (x, y, z))
        face = 2 * axis + (major < 0)
        length = np.maximum(np.abs(major), 1e-12)
        s = np.choose(face, (-z, z, x, x, x, -x)) / length
        t = np.choose(face, (-y, -y, z, -z, -y, -y)) / length
        side = faces.shape[1]
        column = np.clip((s + 1) * 0.5 * side - 0.5, 0, side - 1)
        row = np.clip((t + 1) * 0.5 * side - 0.5, 0, side - 1)
        left, low = np.floor(column).astype(np.intp), np.floor(row).astype(np.intp)
        right, high = np.minimum(left + 1, side - 1), np.minimum(low + 1, side - 1)
        across, along = column - left, row - low
        upper = faces[face, low, left].T * (1 - across) + faces[face, low, right].T * across
        lower = faces[face, high, left].T * (1 - across) + faces[face, high, right].T * across
        return upper * (1 - along) + lower * along


def texture_pixels(model: mujoco.MjModel, index: int) -> Array:
    """Return a texture of the model as (height, width, 3) in [0, 1]."""
    height, width, channels = (int(a[index]) for a in (model.tex_height, model.tex_width, model.tex_nchannel))
    start = int(model.tex_adr[index])
    pixels = model.tex_data[start : start + height * width * channels].reshape(height, width, channels) / 255.0
    return pixels[..., :3] if channels >= 3 else np.repeat(pixels[..., :1], 3, axis=2)


class Surfaces:
    """Colors and reflectances of a model's geoms, by geom index."""

    def __init__(self, model: mujoco.MjModel, sky: Sky) -> None:
        """Read materials and textures; only 2-D textures on planes are used."""
        self._sky = sky
        material = model.geom_matid
        has_material = material >= 0
        colors = visible_colors(model)
        self.rgb = np.ascontiguousarray(colors[:, :3].T)
        self.alpha = colors[:, 3]

        def property_of(values: Array, otherwise: float) -> Array:
            """Return a material property of each geom, or MuJoCo's default for geoms without a material."""
            if not model.nmat:
                return np.full(model.ngeom, otherwise)
            return np.where(has_material, values[material], otherwise).astype(np.float64)

        self.emission = property_of(model.mat_emission, 0.0)
        self.specular = property_of(model.mat_specular, 0.5)
        shininess = property_of(model.mat_shininess, 0.5)
        self.exponent = np.maximum(128.0 * shininess, 1.0)
        self.textures: dict[int, PlaneTexture] = {}
        self.infinite = np.zeros(model.ngeom, bool)
        for geom in np.flatnonzero(model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE)):
            size = model.geom_size[geom]
            self.infinite[geom] = size[0] <= 0 and size[1] <= 0
            if not has_material[geom]:
                continue
            texture = int(model.mat_texid[material[geom], int(mujoco.mjtTextureRole.mjTEXROLE_RGB)])
            if texture < 0 or model.tex_type[texture] != int(mujoco.mjtTexture.mjTEXTURE_2D):
                continue
            repeat = model.mat_texrepeat[material[geom]]
            spread = [
                float(count) if model.mat_texuniform[material[geom]] or half <= 0 else float(count / half)
                for count, half in zip(repeat, size[:2], strict=True)
            ]
            self.textures[int(geom)] = PlaneTexture(texture_pixels(model, texture), (spread[0], spread[1]))

        self._haze = np.array(model.vis.rgba.haze[:3], np.float64)
        horizon = _HAZE_RADIUS * model.vis.map.zfar * model.stat.extent
        self._haze_start = (1.0 - model.vis.map.haze) * horizon
        self._haze_length = max(model.vis.map.haze * horizon, 1e-6)

    def albedo(
        self,
        geoms: Array,
        points: Array,
        directions: Array,
        depths: Array,
        view: View,
        pixel: float,
        placed: mujoco.MjData,
    ) -> Array:
        """Return the surface colors (3, n) of `geoms` (n,) at `points` (3, n), including textures.

        Args:
            geoms: geom indices.
            points: hit points, m.
            directions: unit ray directions (3, n).
            depths: distances along the view's axis, m, shape (n,); times `pixel` they give the width of a pixel there.
            view: the camera.
            pixel: width of a pixel on the image plane one meter away, m.
            placed: the geoms' poses.
        """
        rgb = self.rgb[:, geoms]
        for geom, texture in self.textures.items():
            on_it = np.flatnonzero(geoms == geom)
            if not on_it.size:
                continue
            axis_x, axis_y, normal = placed.geom_xmat[geom].reshape(3, 3).T
            offset = points[:, on_it] - placed.geom_xpos[geom][:, None]
            ray = directions[:, on_it]
            reach = depths[on_it] * pixel
            steepness = dot(ray, normal)
            steepness = np.where(np.abs(steepness) < 1e-9, 1e-9, steepness)
            # One pixel to the right (or up), along the unit vector side, moves the point where the ray meets the
            # plane by reach · (side - ray · (normal·side) / (normal·ray)).
            widths = []
            for axis in (axis_x, axis_y):
                slant = dot(ray, axis) / steepness
                shifts = [np.abs(side @ axis - slant * (side @ normal)) for side in (view.right, view.up)]
                widths.append(reach * (shifts[0] + shifts[1]))
            rgb[:, on_it] *= texture.color(dot(offset, axis_x), dot(offset, axis_y), widths[0], widths[1])
        return rgb

    def add_haze(self, rgb: Array, geoms: Array, points: Array, rays: Array, eye: Array) -> Array:
        """Blend far points of infinite planes into haze, and the haze into the sky, in place; return `rgb` (3, n)."""
        on_plane = np.flatnonzero(self.infinite[geoms])
        if not on_plane.size:
            return rgb
        offset = points[:, on_plane] - eye[:, None]
        distance = np.sqrt(dot(offset, offset))
        far = np.flatnonzero(distance > self._haze_start)
        if far.size:
            on_plane, distance = on_plane[far], distance[far]
            share = np.minimum((distance - self._haze_start) / self._haze_length, 1.0)
            hazy = rgb[:, on_plane]
            hazy += (self._haze[:, None] - hazy) * share
            beyond = np.flatnonzero(share >= 1.0)
            if beyond.size:
                clear = 1.0 - (self._haze_start + self._haze_length) / distance[beyond]
                sky = self._sky.color(rays[:, on_plane[beyond]])
                hazy[:, beyond] += (sky - hazy[:, beyond]) * clear
            rgb[:, on_plane] = hazy
        return rgb


def add_light(
    light: Light,
    visibility: Array,
    color: Array,
    albedo: Array,
    specular: Array,
    exponent: Array,
    points: Array,
    normals: Array,
    to_eye: Array,
) -> None:
    """Add one light's ambient, diffuse and specular terms to `color` (3, n), in place.

    Args:
        light: the light.
        visibility: fraction of the light that reaches each point, in [0, 1], shape (n,).
        color: accumulated color, shape (3, n).
        albedo: surface colors, shape (3, n).
        specular: surface reflectances, shape (n,).
        exponent: highlight exponents, shape (n,).
        points: m, shape (3, n).
        normals: unit, facing the eye, shape (3, n).
        to_eye: unit, shape (3, n).
    """
    to_light, strength = incidence(light, points)
    facing = dot(normals, to_light)
    reached = np.maximum(facing, 0.0) * visibility * strength
    halfway = to_light + to_eye
    length = np.sqrt(np.maximum(dot(halfway, halfway), 1e-18))
    glint = np.clip(dot(normals, halfway) / length, 0.0, 1.0)
    highlight = np.where(facing > 0, specular * glint**exponent * visibility * strength, 0.0)
    for channel in range(3):
        color[channel] += albedo[channel] * (light.ambient[channel] * strength + light.diffuse[channel] * reached)
        color[channel] += light.specular[channel] * highlight


def incidence(light: Light, points: Array) -> tuple[Array, Array]:
    """Return unit vectors from `points` (3, n) to the light, (3, n) or (3, 1), and its strength there, (n,)."""
    if light.directional:
        return -np.array(light.direction)[:, None], np.ones(points.shape[1])
    offset = np.array(light.position)[:, None] - points
    distance = np.sqrt(np.maximum(dot(offset, offset), 1e-18))
    to_light = offset / distance
    strength = np.ones_like(distance)
    if any(light.attenuation):  # MuJoCo point lights have no attenuation
        constant, linear, quadratic = light.attenuation
        strength /= np.maximum(constant + distance * (linear + quadratic * distance), 1e-9)
    if light.kind == int(mujoco.mjtLightType.mjLIGHT_SPOT) and light.cutoff < 180:
        cosine = -dot(to_light, np.array(light.direction))
        inside = cosine >= np.cos(np.radians(light.cutoff))
        strength = np.where(inside, strength * np.maximum(cosine, 1e-9) ** light.exponent, 0.0)
    return to_light, strength
