"""A MuJoCo model as the page draws it: its shapes once, where its bodies are at each instant, and lines beside them."""

import math
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

from gantry.envs.rendering.scene import Marker
from gantry.view.messages import pack

VISIBLE_GROUPS = 3
"""Geoms and sites of the groups below are drawn, as MuJoCo's own viewers do."""
DEFAULT_RGBA = (0.5, 0.5, 0.5, 1.0)
"""A geom's color where the model gives none: its material's counts then."""
TEXTURE_SIDE = 1024
"""Texels along a texture's side, at most."""
KINDS = {
    int(mujoco.mjtGeom.mjGEOM_PLANE): "plane",
    int(mujoco.mjtGeom.mjGEOM_HFIELD): "hfield",
    int(mujoco.mjtGeom.mjGEOM_SPHERE): "sphere",
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): "capsule",
    int(mujoco.mjtGeom.mjGEOM_ELLIPSOID): "ellipsoid",
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): "cylinder",
    int(mujoco.mjtGeom.mjGEOM_BOX): "box",
    int(mujoco.mjtGeom.mjGEOM_MESH): "mesh",
    int(mujoco.mjtGeom.mjGEOM_SDF): "mesh",
}
"""MuJoCo's types of geoms → the page's names of shapes."""
_RGB, _RGBA = int(mujoco.mjtTextureRole.mjTEXROLE_RGB), int(mujoco.mjtTextureRole.mjTEXROLE_RGBA)


def poses(data: mujoco.MjData) -> np.ndarray:
    """Return where each body is, (nbody, 7) float32: position in m, and orientation as a quaternion (w, x, y, z)."""
    return np.concatenate([data.xpos, data.xquat], axis=1).astype(np.float32)


def between(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Return poses (nbody, 7) a share of the way from the first to the second."""
    turned = second.copy()
    opposite = np.einsum("ij,ij->i", first[:, 3:], second[:, 3:]) < 0.0  # the same orientation, the other sign
    turned[opposite, 3:] *= -1.0
    mixed = (1.0 - share) * first + share * turned
    mixed[:, 3:] /= np.maximum(np.linalg.norm(mixed[:, 3:], axis=1, keepdims=True), 1e-9)
    return mixed.astype(np.float32)


def scene_message(model: mujoco.MjModel, content: Mapping[str, object]) -> bytes:
    """Return the message that describes a model's shapes, textures and camera.

    Args:
        model: the model to draw.
        content: further values of the message, by name.
    """
    arrays: dict[str, np.ndarray] = {}
    textures: dict[int, dict[str, object]] = {}
    shapes = []
    for geom in range(model.ngeom):
        kind = KINDS.get(int(model.geom_type[geom]))
        rgba = _color(model, int(model.geom_matid[geom]), model.geom_rgba[geom])
        if kind is None or model.geom_group[geom] >= VISIBLE_GROUPS or rgba[3] <= 0.0:
            continue
        shape = _shape(kind, model.geom_bodyid[geom], model.geom_pos[geom], model.geom_quat[geom], rgba)
        shape["size"] = model.geom_size[geom].tolist()
        mesh = int(model.geom_dataid[geom])
        if kind in ("mesh", "hfield"):
            shape["mesh"] = f"{kind}{mesh}"
            if f"{shape['mesh']}/index" not in arrays:
                arrays.update(_mesh(model, mesh) if kind == "mesh" else _height_field(model, mesh))
        texture = _texture_of(model, int(model.geom_matid[geom]))
        if texture is not None and (kind == "plane" or f"{shape.get('mesh')}/uv" in arrays):
            material = model.geom_matid[geom]
            shape["texture"] = texture
            shape["repeat"] = model.mat_texrepeat[material].tolist()
            shape["uniform"] = bool(model.mat_texuniform[material])
            if texture not in textures:
                texels = _texels(model, texture)
                textures[texture] = {"height": texels.shape[0], "width": texels.shape[1]}
                arrays[f"texture{texture}"] = texels
        shapes.append(shape)
    for site in range(model.nsite):
        kind = KINDS.get(int(model.site_type[site]))
        rgba = _color(model, int(model.site_matid[site]), model.site_rgba[site])
        if kind is not None and model.site_group[site] < VISIBLE_GROUPS and rgba[3] > 0.0:
            shape = _shape(kind, model.site_bodyid[site], model.site_pos[site], model.site_quat[site], rgba)
            shapes.append({**shape, "size": model.site_size[site].tolist()})
    described = {
        **content,
        "shapes": shapes,
        "textures": textures,
        "bodies": int(model.nbody),
        "cameras": _cameras(model),
        "center": model.stat.center.tolist(),
        "extent": float(model.stat.extent),
    }
    return pack("scene", described, arrays)


def markers_message(markers: Sequence[Marker], epoch: int) -> bytes:
    """Return the message of what is drawn beside the model: points and lines.

    A point is x, y, z, radius, r, g, b, a; a line's part is its two ends, radius, r, g, b, a.
    """
    points, lines = [np.zeros((0, 8))], [np.zeros((0, 11))]
    for marker in markers:
        places = np.asarray(marker.points, np.float64).reshape(-1, 3)
        kept = places[np.isfinite(places).all(axis=1)]
        tail = np.array([marker.radius, *marker.rgba])
        if marker.line and len(kept) > 1:
            lines.append(np.hstack([kept[:-1], kept[1:], np.tile(tail, (len(kept) - 1, 1))]))
        elif not marker.line:
            points.append(np.hstack([kept, np.tile(tail, (len(kept), 1))]))
    arrays = {"points": np.concatenate(points), "lines": np.concatenate(lines)}
    return pack("markers", {"epoch": epoch}, arrays)


def _shape(kind: str, body: int, position: np.ndarray, quaternion: np.ndarray, rgba: list[float]) -> dict[str, object]:
    place = {"position": position.tolist(), "quaternion": quaternion.tolist()}
    return {"kind": kind, "body": int(body), **place, "rgba": rgba}


def _texture_of(model: mujoco.MjModel, material: int) -> int | None:
    """Return the number of a material's flat texture, if it has one."""
    found = [int(model.mat_texid[material, role]) for role in (_RGB, _RGBA)] if material >= 0 else []
    flat = [each for each in found if each >= 0 and model.tex_type[each] == mujoco.mjtTexture.mjTEXTURE_2D]
    return flat[0] if flat else None


def _color(model: mujoco.MjModel, material: int, own: np.ndarray) -> list[float]:
    """Return the color of a geom or site: its own, or else its material's."""
    if material < 0 or not np.allclose(own, DEFAULT_RGBA):
        return [round(float(each), 4) for each in own]
    return [round(float(each), 4) for each in model.mat_rgba[material]]


def _texels(model: mujoco.MjModel, texture: int) -> np.ndarray:
    """Return a flat texture, (height, width, 4) uint8, made smaller where it is large."""
    height, width = int(model.tex_height[texture]), int(model.tex_width[texture])
    channels, start = int(model.tex_nchannel[texture]), int(model.tex_adr[texture])
    texels = np.asarray(model.tex_data[start : start + height * width * channels], np.uint8)
    texels = texels.reshape(height, width, channels)
    stride = math.ceil(max(height, width) / TEXTURE_SIDE)
    texels = texels[::stride, ::stride]
    result = np.full((*texels.shape[:2], 4), 255, np.uint8)
    result[..., :3] = texels[..., :3] if channels >= 3 else texels[..., :1]
    if channels == 4:
        result[..., 3] = texels[..., 3]
    return result


def _mesh(model: mujoco.MjModel, mesh: int) -> dict[str, np.ndarray]:
    """Return a mesh's corners (positions, normals, perhaps texture coordinates) and its triangles' indices."""
    faces = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
    textured = model.mesh_texcoordadr[mesh] >= 0
    columns = [model.mesh_face[faces].ravel(), model.mesh_facenormal[faces].ravel()]
    if textured:
        columns.append(model.mesh_facetexcoord[faces].ravel())
    corners, index = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    name = f"mesh{mesh}"
    result = {
        f"{name}/position": model.mesh_vert[model.mesh_vertadr[mesh] + corners[:, 0]],
        f"{name}/normal": model.mesh_normal[model.mesh_normaladr[mesh] + corners[:, 1]],
        f"{name}/index": index.ravel().astype(np.uint32),
    }
    if textured:
        result[f"{name}/uv"] = model.mesh_texcoord[model.mesh_texcoordadr[mesh] + corners[:, 2]]
    return result


def _height_field(model: mujoco.MjModel, field: int) -> dict[str, np.ndarray]:
    """Return a height field's surface as a mesh."""
    rows, columns = int(model.hfield_nrow[field]), int(model.hfield_ncol[field])
    start = int(model.hfield_adr[field])
    x_size, y_size, z_size, _ = model.hfield_size[field]
    heights = model.hfield_data[start : start + rows * columns].reshape(rows, columns) * z_size
    y, x = np.meshgrid(np.linspace(-y_size, y_size, rows), np.linspace(-x_size, x_size, columns), indexing="ij")
    along_y, along_x = np.gradient(heights, y[:, 0], x[0])
    normals = np.stack([-along_x, -along_y, np.ones_like(heights)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    number = np.arange(rows * columns).reshape(rows, columns)
    corner, right, up, across = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    triangles = np.stack([corner, right, across, corner, across, up], axis=-1)
    name = f"hfield{field}"
    return {
        f"{name}/position": np.stack([x, y, heights], axis=-1),
        f"{name}/normal": normals,
        f"{name}/index": triangles.astype(np.uint32),
    }


def _cameras(model: mujoco.MjModel) -> list[dict[str, object]]:
    """Return the model's cameras as orbits; where it has none, one that frames the model."""
    tracking = (int(mujoco.mjtCamLight.mjCAMLIGHT_TRACK), int(mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM))
    moving = [body for body in range(1, model.nbody) if model.body_dofnum[body] > 0]
    track = max(moving, key=lambda body: float(model.body_subtreemass[body]), default=None)
    if model.ncam == 0:
        free = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, free)
        whole = _orbit("", free.lookat, free.distance, free.azimuth, free.elevation, float(model.vis.global_.fovy))
        return [{**whole, "track": track, "follow": False}]
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    found = []
    for camera in range(model.ncam):
        forward = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
        place = data.cam_xpos[camera]
        distance = max(float(forward @ (model.stat.center - place)), 0.2 * float(model.stat.extent))
        azimuth = math.degrees(math.atan2(forward[1], forward[0]))
        elevation = math.degrees(math.asin(max(-1.0, min(1.0, forward[2]))))
        name = model.camera(camera).name or f"camera {camera}"
        field = float(model.cam_fovy[camera])
        orbit = _orbit(name, place + distance * forward, distance, azimuth, elevation, field)
        found.append({**orbit, "track": track, "follow": int(model.cam_mode[camera]) in tracking})
    return found


def _orbit(
    name: str, target: np.ndarray, distance: float, azimuth: float, elevation: float, field: float
) -> dict[str, object]:
    """Return where a camera looks, from how far, and from which side (degrees), as the page takes it."""
    angles = {"azimuth": float(azimuth), "elevation": float(elevation), "fovy": field if 5.0 < field < 120.0 else 45.0}
    return {"name": name, "target": np.asarray(target).tolist(), "distance": float(distance), **angles}
