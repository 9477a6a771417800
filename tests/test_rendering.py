"""The ray caster against closed forms and against itself, and the choice of a backend."""

import importlib.resources
import os
import subprocess
import sys
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest

from gantry.envs.rendering import BACKENDS, gl_guard, make_renderer, opengl
from gantry.envs.rendering.raycast import RaycastRenderer
from gantry.envs.rendering.scene import Marker, RenderScene
from gantry.errors import GantryError

DARK = """<visual><headlight ambient='0 0 0' diffuse='0 0 0' specular='0 0 0'/></visual>
  <asset><texture name="night" type="skybox" builtin="flat" rgb1="0 0 0" width="8" height="48"/></asset>"""

ROOM = """
<mujoco>
  <asset>
    <texture name="checker" type="2d" builtin="checker" rgb1=".2 .3 .4" rgb2=".6 .6 .6" width="64" height="64"/>
    <material name="floor" texture="checker" texrepeat="5 5"/>
  </asset>
  <worldbody>
    <light pos="1 -1 3" dir="-1 1 -3" bulbradius="0.1" cutoff="60" attenuation="1 0.02 0"/>
    <light directional="true" dir="0.3 0.3 -1" diffuse=".3 .3 .3"/>
    <camera name="front" pos="0 -3 1.5" xyaxes="1 0 0 0 .4 1"/>
    <camera name="flat" pos="0 -3 1.5" xyaxes="1 0 0 0 .4 1" projection="orthographic" fovy="3"/>
    <geom type="plane" size="2 2 .1" material="floor"/>
    <geom type="cylinder" size=".2 .3" pos=".8 .5 .3"/>
    <geom type="sphere" size=".25" pos="-.8 .4 .25" rgba=".2 .8 .2 .5"/>
    <geom type="box" size=".1 .8 .4" pos="-1.3 .4 .4"/>
    <body pos="0 0 .2">
      <joint axis="0 0 1"/>
      <geom type="capsule" fromto="0 0 0 .5 0 .4" size=".06" rgba="1 .3 .2 1"/>
      <body pos=".5 0 .4">
        <joint axis="0 1 0"/>
        <geom type="ellipsoid" size=".1 .2 .3" pos="0 0 .3" rgba=".3 .3 1 1"/>
        <geom type="sphere" size=".1" pos="0 0 .75" rgba="1 1 0 .4"/>
        <camera name="hand" pos="0 -1 .5" xyaxes="1 0 0 0 .3 1"/>
      </body>
    </body>
    <body pos="1 -.3 1"><freejoint/><geom type="box" size=".1 .05 .2" rgba=".9 .9 .2 1"/></body>
  </worldbody>
</mujoco>
"""


def room_poses(count):
    """Joint positions of the room: two hinges and a free box, shape (count, 9)."""
    rng = np.random.default_rng(0)
    turns = rng.normal(size=(count, 4))
    turns /= np.linalg.norm(turns, axis=1, keepdims=True)
    places = rng.uniform([-1.2, -1.0, 0.2], [1.2, 1.0, 1.5], (count, 3))
    return np.hstack([rng.uniform(-3, 3, (count, 2)), places, turns])


def picture(xml, width=120, height=90, camera=None, **settings):
    """One picture of a model's initial configuration by the ray caster, shape (height, width, 3)."""
    model = mujoco.MjModel.from_xml_string(xml)
    with RaycastRenderer(RenderScene(model, width, height, camera), **settings) as renderer:
        return renderer.render(mujoco.MjData(model)).astype(int)


def glowing(geoms, camera="pos='0 -3 0' xyaxes='1 0 0 0 0 1' fovy='40'", extra=""):
    """A model whose geoms glow in their own color, unlit, before a black sky."""
    return f"""<mujoco>{DARK}<asset><material name="glow" emission="1" rgba="1 0 0 1"/></asset>
      <worldbody><camera {camera}/>{geoms}</worldbody>{extra}</mujoco>"""


def is_red(image):
    """How much of each pixel a glowing red geom covers, in [0, 1], shape (height, width)."""
    return image[..., 0] / 255


# --- geometry -------------------------------------------------------------------------------------------------------


def test_sphere_area_matches_projection():
    image = picture(glowing("<geom type='sphere' size='0.5' material='glow'/>"), 240, 180)
    focal = 90 / np.tan(np.radians(20))
    radius = focal * 0.5 / np.sqrt(3.0**2 - 0.5**2)  # pixels: tangent rays of a sphere on the axis
    assert np.sum(is_red(image) > 0.5) == pytest.approx(np.pi * radius**2, rel=0.01)


def test_sphere_edges_are_anti_aliased():
    red = is_red(picture(glowing("<geom type='sphere' size='0.5' material='glow'/>"), 240, 180))
    partial = (red > 0.1) & (red < 0.9)
    perimeter = 2 * np.pi * 90 / np.tan(np.radians(20)) * 0.5 / np.sqrt(3.0**2 - 0.5**2)
    assert 0.3 * perimeter < partial.sum() < 2 * perimeter
    assert not partial[80:100, 110:130].any()


def test_central_ray_hits_sphere_front():
    model = mujoco.MjModel.from_xml_string(glowing("<geom type='sphere' size='0.5' material='glow'/>"))
    with RaycastRenderer(RenderScene(model, 61, 41, None), threads=1) as renderer:
        renderer.render(mujoco.MjData(model))
        center = 20 * 61 + 30
        assert renderer.static_picture is not None
        np.testing.assert_allclose(renderer.static_picture.points[center], [0, -0.5, 0], atol=1e-7)
        np.testing.assert_allclose(renderer.static_picture.normals[center], [0, -1, 0], atol=1e-7)


@pytest.mark.parametrize("point", [(0.4, 0.2, 0.3), (-0.6, 0.5, -0.35), (0.0, -0.5, 0.1)])
def test_ball_appears_at_projected_center(point):
    geom = f"<geom type='sphere' size='0.02' pos='{point[0]} {point[1]} {point[2]}' material='glow'/>"
    red = is_red(picture(glowing(geom), 480, 360))
    rows, columns = np.mgrid[:360, :480] + 0.5
    focal = 180 / np.tan(np.radians(20))
    depth = point[1] + 3.0
    assert np.sum(red * columns) / red.sum() == pytest.approx(240 + focal * point[0] / depth, abs=0.15)
    assert np.sum(red * rows) / red.sum() == pytest.approx(180 - focal * point[2] / depth, abs=0.15)


def test_orthographic_size_is_independent_of_distance():
    geoms = "".join(
        f"<geom type='sphere' size='0.2' pos='{x} {y} 0' material='glow'/>" for x, y in ((-0.5, -1), (0.5, 3))
    )
    image = picture(glowing(geoms, "pos='0 -3 0' xyaxes='1 0 0 0 0 1' projection='orthographic' fovy='2'"), 240, 180)
    red = is_red(image) > 0.5
    expected = np.pi * (0.2 * 180 / 2) ** 2
    assert red[:, :120].sum() == pytest.approx(expected, rel=0.02)
    assert red[:, 120:].sum() == pytest.approx(expected, rel=0.02)


def test_hidden_groups_and_invisible_geoms_are_not_drawn():
    geom = "<geom type='sphere' size='0.5' {}/>"
    empty = picture(glowing(""))
    assert np.array_equal(picture(glowing(geom.format("group='3' material='glow'"))), empty)
    assert np.array_equal(picture(glowing(geom.format("rgba='1 0 0 0'"))), empty)
    assert not np.array_equal(picture(glowing(geom.format("group='2' material='glow'"))), empty)


def test_half_transparent_surface_blends_half():
    wall = "<geom type='box' size='2 0.1 2' pos='0 1 0' material='green'/>"
    pane = "<geom type='box' size='2 0.1 2' material='pane'/>"
    assets = """<asset><material name='green' emission='1' rgba='0 1 0 1'/>
      <material name='pane' emission='1' rgba='1 0 0 0.25'/></asset>"""
    middle = picture(glowing(wall + pane, extra=assets))[45, 60]
    np.testing.assert_allclose(middle, [255 * 0.25, 255 * 0.75, 0], atol=1)


# --- shading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tilt", [0.0, 40.0, 70.0])
def test_diffuse_shading_follows_lambert(tilt):
    direction = f"{np.sin(np.radians(tilt))} 0 {-np.cos(np.radians(tilt))}"
    xml = f"""<mujoco>{DARK}<asset><material name="matt" specular="0" rgba="0.8 0.5 0.2 1"/></asset><worldbody>
      <light directional="true" dir="{direction}" diffuse="0.9 0.9 0.9" ambient="0.1 0.1 0.1"/>
      <camera pos="0 0 3"/><geom type="plane" size="9 9 1" material="matt"/></worldbody></mujoco>"""
    expected = 255 * np.array([0.8, 0.5, 0.2]) * (0.1 + 0.9 * np.cos(np.radians(tilt)))
    np.testing.assert_allclose(picture(xml)[45, 60], expected, atol=0.6)


def test_spotlight_attenuation():
    xml = f"""<mujoco>{DARK}<asset><material name="matt" specular="0" rgba="1 1 1 1"/></asset><worldbody>
      <light pos="0 0 2" dir="0 0 -1" cutoff="80" exponent="0" attenuation="1 0 0.5" diffuse="0.9 0.9 0.9"/>
      <camera pos="0 0 3"/><geom type="plane" size="9 9 1" material="matt"/></worldbody></mujoco>"""
    image = picture(xml, 121, 91)
    assert image[45, 60, 0] == pytest.approx(255 * 0.9 / (1 + 0.5 * 4), abs=0.6)


def test_highlight_is_at_half_vector():
    xml = f"""<mujoco>{DARK}<asset><material name="ball" specular="1" shininess="1" rgba="0.1 0.1 0.1 1"/></asset>
      <worldbody><light directional="true" dir="-1 1 0" diffuse="0 0 0" specular="1 1 1"/>
      <camera pos="0 -30 0" xyaxes="1 0 0 0 0 1" fovy="3"/><geom type="sphere" size="0.5" material="ball"/>
      </worldbody></mujoco>"""
    image = picture(xml, 241, 181)
    rows, columns = np.nonzero(image[..., 0] * (image[..., 0] == image[..., 2]) > 200)
    focal = 90.5 / np.tan(np.radians(1.5))
    normal_x = np.sin(np.radians(22.5))  # halfway between the eye's direction and the light's, 45° to its right
    assert rows.mean() == pytest.approx(90, abs=0.5)
    assert columns.mean() == pytest.approx(120 + focal * 0.5 * normal_x / (30 - 0.5 * np.cos(np.pi / 8)), abs=1.0)


def shadow_scene(radius, light="directional='true' dir='0 0 -1'"):
    return f"""<mujoco>{DARK}<asset><material name="matt" specular="0" rgba="1 1 1 1"/></asset><worldbody>
      <light {light} diffuse="0.8 0.8 0.8" ambient="0.1 0.1 0.1" bulbradius="{radius}"/>
      <camera pos="0 -4 4" xyaxes="1 0 0 0 1 1" fovy="40"/>
      <geom type="plane" size="9 9 1" material="matt"/>
      <geom type="box" size="0.5 0.5 0.01" material="matt" pos="0 0 1"/>
      </worldbody></mujoco>"""


@pytest.mark.parametrize(
    "light", ["directional='true' dir='0 0 -1'", "pos='0 0 4' dir='0 0 -1' cutoff='80' exponent='0'"]
)
def test_shadow_has_ambient_light_only(light):
    model = mujoco.MjModel.from_xml_string(shadow_scene(0.0, light))
    with RaycastRenderer(RenderScene(model, 240, 180, None)) as renderer:
        image = renderer.render(mujoco.MjData(model)).reshape(-1, 3).astype(int)
        assert renderer.static_picture is not None
        floor, points = renderer.static_picture.geoms == 0, renderer.static_picture.points
    half = 0.5 if "directional" in light else 0.5 * 4 / 3.01  # the shadow of the plate's lower edge
    reach = np.max(np.abs(points[:, :2]), axis=1)
    shadow, lit = floor & (reach < half - 0.1), floor & (reach > half + 0.1)
    assert shadow.sum() > 500
    assert set(np.unique(image[shadow])) <= {25, 26}
    assert image[lit & (reach < 1.5)].min() > 100


def test_castshadow_false_casts_no_shadow():
    scene = shadow_scene(0.0)
    shadowless = scene.replace('pos="0 0 1"/', 'pos="0 0 1" castshadow="false"/')
    dark, bright = (np.sum(picture(xml)[..., 0] < 40) for xml in (scene, shadowless))
    assert dark > 200
    assert bright == 0


def test_penumbra_width_matches_light_size():
    def half_lit(radius):
        image = picture(shadow_scene(radius), 240, 180)[..., 0]
        return np.sum((image > 40) & (image < 215))

    assert half_lit(0.1) > 4 * half_lit(0.0)


def test_checkerboard_is_filtered_with_distance():
    xml = f"""<mujoco>{DARK}<asset>
      <texture name="checker" type="2d" builtin="checker" rgb1="0 0 0" rgb2="1 1 1" width="64" height="64"/>
      <material name="floor" texture="checker" texuniform="true" texrepeat="2 2" emission="1" specular="0"/></asset>
      <worldbody><camera pos="0 0 1" xyaxes="1 0 0 0 0.05 1"/><geom type="plane" size="200 200 1" material="floor"/>
      </worldbody></mujoco>"""
    image = picture(xml, 240, 180)[..., 0]
    assert image[-20:].min() == 0
    assert image[-20:].max() == 255
    # 0.5 m squares at 100 m and more are far below a pixel
    far = image[int(90 - 4.5 + 217 / 110) - 1]
    assert np.all(np.abs(far - 127.5) < 20)


# --- one picture, however it is made --------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", [pytest.param("front", marks=pytest.mark.slow), "flat"])
def test_incremental_equals_full_rendering_bit_for_bit(camera):
    model = mujoco.MjModel.from_xml_string(ROOM)
    data = mujoco.MjData(model)
    changed, full = (RaycastRenderer(RenderScene(model, 160, 120, camera), incremental=flag) for flag in (True, False))
    pictures = []
    for pose in room_poses(8):
        data.qpos[:] = pose
        pictures.append(changed.render(data))
        assert np.array_equal(pictures[-1], full.render(data))
    assert not np.array_equal(pictures[0], pictures[1])


def test_moving_camera_equals_full_rendering():
    model = mujoco.MjModel.from_xml_string(ROOM)
    data = mujoco.MjData(model)
    renderer, fresh = RaycastRenderer(RenderScene(model, 80, 60, "hand")), None
    for pose in room_poses(4):
        data.qpos[:] = pose
        fresh = RaycastRenderer(RenderScene(model, 80, 60, "hand"), incremental=False)
        assert np.array_equal(renderer.render(data), fresh.render(data))


def test_threads_do_not_change_picture():
    one, two = (picture(ROOM, 160, 120, "front", threads=threads) for threads in (1, 2))
    assert np.array_equal(one, two)


def test_rendering_does_not_modify_model_or_data():
    model = mujoco.MjModel.from_xml_string(ROOM)
    data = mujoco.MjData(model)
    data.qpos[:] = room_poses(1)[0]
    groups, colors = model.geom_group.copy(), model.geom_rgba.copy()
    # No kinematics ran on `data`: its derived poses must stay as they are, stale.
    before = {name: getattr(data, name).copy() for name in ("qpos", "qvel", "xpos", "geom_xpos", "cam_xpos", "act")}
    with make_renderer(model, 64, 48, backend="raycast") as renderer:
        renderer.render(data)
    for name, value in before.items():
        assert np.array_equal(getattr(data, name), value), name
    assert np.array_equal(model.geom_group, groups)
    assert np.array_equal(model.geom_rgba, colors)


def test_mocap_body_is_drawn_at_its_pose():
    xml = glowing("<body name='target' mocap='true'><geom type='sphere' size='0.3' material='glow'/></body>")
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    with RaycastRenderer(RenderScene(model, 121, 91, None)) as renderer:
        columns = []
        for x in (-0.5, 0.5):
            data.mocap_pos[0] = x, 0, 0
            red = is_red(renderer.render(data).astype(int))
            columns.append(np.sum(red * np.arange(121)) / red.sum())
    focal = 45.5 / np.tan(np.radians(20))
    np.testing.assert_allclose(columns, [60 - focal * 0.5 / 3, 60 + focal * 0.5 / 3], atol=0.5)


# --- markers --------------------------------------------------------------------------------------------------------


def test_markers_are_occluded_by_nearer_geoms():
    xml = glowing("<geom type='box' size='0.5 0.1 0.5' material='glow'/>")
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    with RaycastRenderer(RenderScene(model, 121, 91, None)) as renderer:
        plain = renderer.render(data)
        front = Marker(np.array([[-0.3, -1.0, 0], [0.3, -1.0, 0]]), (0, 0, 1, 1), 0.02)
        behind = Marker(np.array([[-0.3, 1.0, 0], [0.3, 1.0, 0]]), (0, 0, 1, 1), 0.02)
        shown = renderer.render(data, [front])
        assert shown[45, 60, 2] > 200
        assert np.array_equal(shown[20], plain[20])
        assert np.array_equal(renderer.render(data, [behind]), plain)
        assert np.array_equal(renderer.render(data), plain)


def test_marker_sphere_size_matches_projection():
    model = mujoco.MjModel.from_xml_string(glowing(""))
    with RaycastRenderer(RenderScene(model, 240, 180, None)) as renderer:
        dots = Marker(np.array([[-0.4, 0, 0], [0.4, 0, 0]]), (1, 0, 0, 1), 0.1, line=False)
        red = is_red(renderer.render(mujoco.MjData(model), [dots]).astype(int))
    radius = 90 / np.tan(np.radians(20)) * 0.1 / 3
    assert red.sum() == pytest.approx(2 * np.pi * radius**2, rel=0.05)


# --- the cart-pole's looks -------------------------------------------------------------------------------------------


def cart_pole_xml():
    return importlib.resources.files("gantry.assets").joinpath("cart_pole.xml").read_text(encoding="utf-8")


def test_cart_pole_visual_geoms_have_no_mass():
    root = ElementTree.fromstring(cart_pole_xml())
    for tag in ("visual", "asset", "statistic"):
        for element in root.findall(tag):
            root.remove(element)
    for geom in root.iter("geom"):
        geom.attrib.pop("material", None)
    bare = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    dressed = mujoco.MjModel.from_xml_string(cart_pole_xml())
    prefixes = ("body_", "jnt_", "dof_", "actuator_", "qpos0", "opt", "geom_size", "geom_pos", "geom_con")
    names = [name for name in dir(bare) if name.startswith(prefixes) and isinstance(getattr(bare, name), np.ndarray)]
    assert len(names) > 50
    for name in names:
        assert np.array_equal(getattr(bare, name), getattr(dressed, name)), name
    assert (bare.nq, bare.nv, bare.nu, bare.nbody) == (dressed.nq, dressed.nv, dressed.nu, dressed.nbody)


@pytest.mark.parametrize("slide", [-1.8, 0.0, 1.8])
@pytest.mark.parametrize("angle", [0.0, np.pi])
def test_cart_pole_camera_sees_cart_and_pole(slide, angle):
    model = mujoco.MjModel.from_xml_string(cart_pole_xml())
    data = mujoco.MjData(model)
    data.qpos[:] = slide, angle
    with RaycastRenderer(RenderScene(model, 240, 180, None)) as renderer:
        renderer.render(data)
        geoms = renderer._work.geoms.reshape(180, 240)
    for name in ("cart", "pole", "rail_front"):
        rows, columns = np.nonzero(geoms == model.geom(name).id)
        assert rows.size > 20
        # clear of the picture's edges
        assert rows.min() > 4
        assert rows.max() < 0.74 * 180
        assert columns.min() > 4
        assert columns.max() < 235


# --- choosing a backend ---------------------------------------------------------------------------------------------


@pytest.fixture
def model():
    return mujoco.MjModel.from_xml_string(ROOM)


@pytest.fixture
def _no_graphics(monkeypatch):
    monkeypatch.delenv("GANTRY_RENDERER", raising=False)
    monkeypatch.setattr(opengl, "library_present", lambda name: False)


def one_line(error):
    return "\n" not in str(error.value)


def test_unknown_backend_is_refused(model):
    with pytest.raises(GantryError, match="no renderer 'vulkan'; choose auto, egl, osmesa, raycast") as error:
        make_renderer(model, backend="vulkan")
    assert one_line(error)


def test_unknown_backend_in_environment_variable_is_refused(model, monkeypatch):
    monkeypatch.setenv("GANTRY_RENDERER", "directx")
    with pytest.raises(GantryError, match="'directx' \\(from GANTRY_RENDERER\\)"):
        make_renderer(model)


@pytest.mark.usefixtures("_no_graphics")
@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_unusable_backend_error_suggests_alternative(model, backend):
    with pytest.raises(GantryError, match=f"the {backend} renderer cannot work.*choose raycast") as error:
        make_renderer(model, backend=backend)
    assert one_line(error)


@pytest.mark.usefixtures("_no_graphics")
def test_auto_falls_back_to_raycast(model):
    with make_renderer(model, 32, 24) as renderer:
        assert renderer.backend == "raycast"
        assert renderer.render(mujoco.MjData(model)).shape == (24, 32, 3)


def test_auto_falls_back_when_context_creation_fails(model, monkeypatch):
    def broken(backend):
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.delenv("GANTRY_RENDERER", raising=False)
    monkeypatch.setattr(opengl, "library_present", lambda name: True)
    monkeypatch.setattr(opengl, "_import_context_class", broken)
    with make_renderer(model, 32, 24) as renderer:
        assert renderer.backend == "raycast"


def test_failed_import_leaves_no_pyopengl_modules(monkeypatch):
    monkeypatch.setenv("PYOPENGL_PLATFORM", "no such platform")
    before = {name for name in sys.modules if name.split(".")[0] == "OpenGL" or name.startswith("mujoco.osmesa")}
    with pytest.raises(ImportError):
        opengl._import_context_class("osmesa")
    assert os.environ["PYOPENGL_PLATFORM"] == "no such platform"
    after = {name for name in sys.modules if name.split(".")[0] == "OpenGL" or name.startswith("mujoco.osmesa")}
    assert after == before


def test_environment_variable_selects_auto_backend(model, monkeypatch):
    monkeypatch.setenv("GANTRY_RENDERER", "raycast")
    with make_renderer(model, 32, 24) as renderer:
        assert renderer.backend == "raycast"


@pytest.mark.parametrize(("camera", "message"), [("nowhere", "its cameras: front, flat, hand"), (7, "it has 3")])
def test_unknown_camera_is_refused(model, camera, message):
    with pytest.raises(GantryError, match=message):
        make_renderer(model, camera=camera, backend="raycast")


def test_empty_picture_and_closed_renderer_are_refused(model):
    with pytest.raises(GantryError, match="0×10"):
        make_renderer(model, 0, 10, backend="raycast")
    renderer = make_renderer(model, 16, 12, backend="raycast")
    renderer.close()
    renderer.close()
    with pytest.raises(GantryError, match="closed"):
        renderer.render(mujoco.MjData(model))


def test_model_without_cameras_is_framed():
    xml = "<mujoco><worldbody><geom type='box' size='1 1 1' rgba='1 0 0 1'/></worldbody></mujoco>"
    image = picture(xml)
    corners, middle = image[[0, 0, -1, -1], [0, -1, 0, -1]], image[45, 60]
    assert middle[0] > 2 * middle[2]
    assert np.all(corners[:, 2] > corners[:, 0] - 1)


def gl_backends():
    """The OpenGL backends that can make a context on this machine; asked in another process, which may crash."""
    code = """
import sys, mujoco
from gantry.envs.rendering import make_renderer
make_renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8, backend=sys.argv[1]).close()
"""
    found = []
    for backend in BACKENDS[:2]:
        command = [sys.executable, "-c", code, backend]
        if (
            gl_guard.library_present(backend)
            and not subprocess.run(command, capture_output=True, check=False).returncode
        ):
            found.append(backend)
    return found


def test_opengl_agrees_with_raycast(tmp_path):
    backends = gl_backends()
    if not backends:
        pytest.skip("no graphics library makes a context here")
    (tmp_path / "room.xml").write_text(
        ROOM.replace("<worldbody>", "<worldbody><geom type='box' size='9 .1 9' pos='0 5 0'/>", 1)
    )
    code = """
import sys, mujoco, numpy as np
from gantry.envs.rendering import make_renderer
model = mujoco.MjModel.from_xml_path(sys.argv[1])
data = mujoco.MjData(model)
pictures = []
for backend in sys.argv[2:]:
    with make_renderer(model, 160, 120, backend=backend) as renderer:
        assert renderer.backend == backend
        pictures.append(renderer.render(data).astype(float))
difference = np.abs(pictures[0] - pictures[1])
print(np.median(difference), np.mean(difference > 40), pictures[0].std())
"""
    for backend in backends:
        # a process each: PyOpenGL is bound to the first platform it was imported for
        command = [sys.executable, "-c", code, str(tmp_path / "room.xml"), backend, "raycast"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        median, outliers, spread = (float(word) for word in result.stdout.split())
        assert median < 6
        assert outliers < 0.1
        assert spread > 20


# --- MUJOCO_GL ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["egl", "osmesa", "vulkan"])
def test_unusable_mujoco_gl_is_removed(value, monkeypatch, capsys):
    monkeypatch.setenv("MUJOCO_GL", value)
    monkeypatch.delitem(sys.modules, "mujoco")
    monkeypatch.setattr(gl_guard, "_loads", lambda name: False)
    line = gl_guard.drop_unusable_mujoco_gl()
    assert "MUJOCO_GL" not in os.environ
    assert line is not None
    assert capsys.readouterr().err == line + "\n"
    assert f"MUJOCO_GL={value}" in line


@pytest.mark.parametrize("value", ["", "glfw", "egl", "disable"])
def test_usable_mujoco_gl_is_kept(value, monkeypatch, capsys):
    monkeypatch.setenv("MUJOCO_GL", value)
    monkeypatch.delitem(sys.modules, "mujoco")
    monkeypatch.setattr(gl_guard, "_loads", lambda name: True)
    assert gl_guard.drop_unusable_mujoco_gl() is None
    assert os.environ["MUJOCO_GL"] == value
    assert capsys.readouterr().err == ""


def test_gl_guard_imports_neither_mujoco_nor_numpy():
    code = """
import sys
import gantry.envs.rendering.gl_guard
print([name for name in ("mujoco", "OpenGL") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
