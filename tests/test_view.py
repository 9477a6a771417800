"""The viewer: what its server lets in, what its commands do, and that an episode nobody touches is the usual one."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import browser
import gymnasium
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantry.cli.view import main as view_main
from gantry.envs.rendering.scene import Marker
from gantry.errors import GantryError
from gantry.runs.environments import open_env
from gantry.runs.seeds import environment_seed
from gantry.view import messages, websocket
from gantry.view.grip import tendon_lines
from gantry.view.messages import pack, parse
from gantry.view.scene import between, markers_message, scene_message
from gantry.view.server import RETURN_SECONDS, Helm, Page, Server, names_this_machine
from gantry.view.session import Session
from gantry.view.show import Show
from gantry.view.training import TrainingWatch, curve_message

SWING_UP = "gantry/CartPoleSwingUp-v0"


class Clock:
    """Seconds that pass when a test says so, so that sessions are the same on a slow machine."""

    seconds = 0.0

    def __call__(self):
        return self.seconds


CLOCK = Clock()


class Constant:
    """A policy that always pushes with half of its force."""

    def act(self, observation):
        return np.full((len(observation), 1), 0.5, np.float32)


def session_of(env_id=SWING_UP, policy=None, options=None, **settings):
    """A session that shows one thing."""
    load = None if policy is None else lambda: policy
    return Session([Show(env_id, env_id, options or {}, load)], clock=CLOCK, **settings)


def unpack(message):
    """The header and the arrays of a message, as the page reads them."""
    length = int.from_bytes(message[:4], "little")
    header = json.loads(message[4 : 4 + length])
    arrays, offset = {}, 4 + length
    for name, (letter, size) in header["arrays"].items():
        arrays[name] = np.frombuffer(message, messages.TYPES[letter], size, offset)
        offset += -(-arrays[name].nbytes // 4) * 4
    assert offset == len(message)
    return header, arrays


def play(session, ticks=60):
    """Let ticks of a 60th of a second pass, and return the latest message of each kind."""
    latest = dict(session.messages())
    for _ in range(ticks):
        CLOCK.seconds += 1 / 60
        session.advance(1 / 60)
        latest.update(session.messages())
    return latest


# Commands


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
@settings(max_examples=50, deadline=None)
def test_parse_refuses_what_is_no_command(raw):
    with contextlib.suppress(GantryError):
        assert isinstance(parse(raw), messages.Command)


ACTS = ["play", "step", "reset", "speed", "switch", "control", "act", "push", "throw", "grab", "release", "physics"]
FIELDS = (
    "on", "value", "index", "by", "values", "x", "y", "strength", "name", "next", "path", "origin", "direction",
)  # fmt: skip
ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.floats(), max_size=3)


@given(st.fixed_dictionaries({"do": st.sampled_from(ACTS)}, optional=dict.fromkeys(FIELDS, ANYTHING)))
@settings(max_examples=60, deadline=None)
def test_session_survives_any_command_that_parses(fields):
    session = test_session_survives_any_command_that_parses.session
    try:
        command = parse(json.dumps(fields).encode())
    except GantryError:
        return
    session.handle(command)
    session.advance(1 / 60)
    assert np.isfinite(unpack(dict(session.messages())["settings"])[0]["hand"]).all()


test_session_survives_any_command_that_parses.session = session_of()


@pytest.mark.parametrize(
    "raw",
    [
        b'{"do":"load","path":"/etc/passwd"}',
        b'{"do":"switch","index":"../other"}',
        b'{"do":"switch","index":-1}',
        b'{"do":"play","on":true,"path":"x"}',
        b'{"do":"speed","value":NaN}',
        b'{"do":"speed","value":1e999}',
        b'{"do":"push","x":2,"y":0}',
        b'{"do":"act","values":[]}',
        b'{"do":"grab","origin":[0,0],"direction":[0,0,1]}',
        b'{"do":"grab","origin":[0,0,1e999],"direction":[0,0,1]}',
        b'{"do":"release","all":true}',
        b'{"do":"act","values":' + json.dumps([0.0] * 200).encode() + b"}",
        b'{"do":"physics","name":"' + b"x" * 100 + b'","value":1}',
        b"[" * 4000,
        b'{"do":"step"}' + b" " * 5000,
        b"\xff\xfe",
        b"",
    ],
)
def test_parse_refuses_hostile_commands(raw):
    with pytest.raises(GantryError):
        parse(raw)


# The session


def test_untouched_episode_is_the_evaluated_one_bit_for_bit():
    policy = Constant()
    session = session_of(policy=policy, max_steps=40)
    play(session, 60)
    vector = open_env(SWING_UP, 1)
    observations, _ = vector.reset(seed=environment_seed("evaluation", 0))
    total = 0.0
    for _ in range(40):
        observations, rewards, *_ = vector.step(policy.act(observations))
        total += float(rewards[0])
    assert session.source.ended
    assert session.score == 1000.0 * total / 40


def test_score_is_of_the_tasks_own_objective_beside_another_reward_in_use():
    own, designed = session_of(max_steps=5), session_of(options={"reward": "upright=-1"}, max_steps=5)
    for session in (own, designed):
        session.handle(messages.Control("hand"))
        play(session, 60)
        assert session.source.ended
    assert own.score == designed.score


def test_pause_step_and_reset():
    session = session_of(policy=Constant())
    play(session, 30)
    session.handle(messages.Play(False))
    before = session.clock
    assert play(session, 30).keys() <= {"settings", "frame", "plots"}
    assert session.clock == before
    session.handle(messages.Step())
    after = unpack(play(session, 2)["frame"])[0]
    assert before < after["time"] <= before + 0.04
    assert after["time"] == pytest.approx(0.02 * after["steps"])
    session.handle(messages.Reset())
    assert unpack(play(session, 2)["frame"])[0]["time"] == 0.0


def test_speed_scales_time():
    times = []
    for speed in (0.1, 1.0, 4.0):
        session = session_of()
        session.handle(messages.Speed(speed))
        play(session, 30)
        times.append(session.clock)
    assert times == pytest.approx([0.05, 0.5, 2.0])


def test_episode_end_begins_the_next_one():
    session = session_of(max_steps=5)
    play(session, 12)
    assert session.source.ended
    play(session, 70)
    assert session.episode == 1
    assert not session.source.ended or session.clock < 0.11


def test_push_moves_the_robot_and_stops():
    positions = []
    for push in (None, messages.Push(1.0, 0.0, 5.0), messages.Push(-1.0, 0.0, 5.0)):
        session = session_of()
        if push is not None:
            session.handle(push)
        lines = unpack(play(session, 1)["markers"])[1]["lines"]
        assert (lines.size > 0) == (push is not None)
        positions.append(unpack(play(session, 30)["frame"])[1]["poses"].reshape(-1, 7)[1, 0])
        assert not session.source._env.batch.bind("xfrc_applied").any()
    assert positions[2] < positions[0] - 0.05 < positions[0] + 0.05 < positions[1]


def grabbed(session, body, shift):
    """The x coordinate of a body, taken hold of from the front and pulled sideways, before and after 30 ticks."""
    play(session, 5)
    place = unpack(play(session, 1)["frame"])[1]["poses"].reshape(-1, 7)[body, :3].astype(float)
    eye = place - [0.0, 3.0, 0.0]
    session.handle(messages.Grab(eye.tolist(), [0.0, 1.0, 0.0]))
    session.handle(messages.Grab((eye + np.array([shift, 0.0, 0.0])).tolist(), [0.0, 2.0, 0.0]))
    latest = play(session, 30)
    assert unpack(latest["markers"])[1]["lines"].size > 0
    assert "notice" not in latest
    return place[0], unpack(latest["frame"])[1]["poses"].reshape(-1, 7)[body, 0]


@pytest.mark.parametrize("env_id", [SWING_UP, "HalfCheetah-v5"])
def test_grabbed_body_follows_the_pointer_until_it_is_let_go(env_id):
    for shift in (0.4, -0.4):
        session = session_of(env_id, max_steps=1000)
        before, after = grabbed(session, 1, shift)
        assert 0.2 < (after - before) / shift < 1.5
        session.handle(messages.Release())
        assert unpack(play(session, 10)["markers"])[1]["lines"].size == 0
    if env_id == SWING_UP:
        assert not session.source._env.batch.bind("xfrc_applied").any()


def test_grabbing_nothing_is_answered_by_a_notice():
    session = session_of()
    for direction in ([0.0, -1.0, 0.3], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]):  # the sky, the floor, no direction
        session.handle(messages.Grab([3.0, -5.0, 2.0], direction))
        assert unpack(dict(session.messages())["notice"])[0]["text"]


def test_ball_and_physics_keep_the_state():
    session = session_of(policy=Constant())
    play(session, 30)
    simulator = session.source._env
    before, clock = simulator.batch.bind("qpos")[0].copy(), float(simulator.state.time[0])
    session.handle(messages.SetPhysics("cart_mass", 4.0))
    session.handle(messages.SetPhysics("motor_delay", 3.0))
    session.handle(messages.SetPhysics("motor_sign", -0.3))
    session.handle(messages.Throw(1.0, 0.0))
    simulator = session.source._env
    assert np.array_equal(simulator.batch.bind("qpos")[0, :2], before)
    assert simulator.state.time[0] == clock
    assert simulator.batch.get_model(0).body("cart").mass[0] == 4.0
    latest = play(session, 1)
    assert unpack(latest["scene"])[0]["bodies"] == 6
    values = {each["name"]: each["value"] for each in unpack(latest["settings"])[0]["physics"]}
    assert (values["cart_mass"], values["motor_delay"], values["pole_mass"]) == (4.0, 3.0, 0.1)
    assert values["motor_sign"] == -1.0, "the nearest of the values that it has"
    heights = [unpack(play(session, 5)["frame"])[1]["poses"].reshape(-1, 7)[3, 2] for _ in range(4)]
    assert max(heights) > 0.3  # it flies


@pytest.mark.parametrize("env_id", ["gantry/ReachPlanar-v0", "gantry/ReachGoal-v0", "gantry/VacuumDrive-v0"])
def test_interference_goes_on_from_where_the_robot_is(env_id):
    session = session_of(env_id)
    session.handle(messages.Control("random"))
    play(session, 5)
    before = session.source._env.state.qpos.copy()
    session.handle(messages.Throw(0.6, 0.8))
    for quantity in session.source.physics():
        high = quantity.parameter.high
        session.handle(
            messages.SetPhysics(quantity.name, high if quantity.value == quantity.parameter.low else high / 2)
        )
    assert np.array_equal(session.source._env.state.qpos, before)
    session.handle(messages.Push(0.5, 0.5, 0.2))
    assert "notice" not in play(session, 5)
    session.handle(messages.Reset(next=True))
    assert "notice" not in play(session, 2)


def test_command_that_cannot_be_done_is_answered_by_a_notice():
    session = session_of()
    for command in (
        messages.SetPhysics("cart_mass", -1.0), messages.SetPhysics("gravity", 1.0), messages.Switch(5),
        messages.Control("policy"), messages.Act([0.0, 0.0]),
    ):  # fmt: skip
        session.handle(command)
        assert unpack(dict(session.messages())["notice"])[0]["text"]


def test_hand_sets_the_action_within_its_bounds():
    session = session_of()
    session.handle(messages.Act([3.0]))
    header, arrays = unpack(play(session, 10)["plots"])
    rows = arrays["rows"].reshape(-1, header["columns"])
    assert header["actions"] == ["force"]
    assert (rows[:, -1] == 1.0).all()


def test_chance_follows_from_the_seed():
    runs = []
    for _ in range(2):
        session = session_of(seed=3)
        session.handle(messages.Control("random"))
        runs.append(unpack(play(session, 20)["frame"])[1]["poses"])
    assert np.array_equal(*runs)
    assert not np.array_equal(runs[0], unpack(play(session_of(seed=3), 20)["frame"])[1]["poses"])


def test_switch_shows_another_of_the_named_runs():
    shows = [Show(each, f"gantry/{each}", {}, None) for each in ("CartPoleSwingUp-v0", "ReachPlanar-v0")]
    session = Session(shows, clock=CLOCK)
    first = unpack(play(session, 2)["scene"])[0]
    session.handle(messages.Switch(1))
    latest = play(session, 2)
    second = unpack(latest["scene"])[0]
    assert second["bodies"] != first["bodies"]
    assert second["epoch"] > first["epoch"]
    assert unpack(latest["settings"])[0]["env"] == "gantry/ReachPlanar-v0"


def test_foreign_model_is_drawn_from_its_poses_and_pushed():
    session = session_of("InvertedPendulum-v5")
    scene = unpack(play(session, 1)["scene"])[0]
    assert scene["drawn"] == "scene"
    still = unpack(play(session, 10)["frame"])[1]["poses"].reshape(-1, 7)[1, 0]
    session.handle(messages.Push(1.0, 0.0, 5.0))
    assert unpack(play(session, 10)["frame"])[1]["poses"].reshape(-1, 7)[1, 0] > still + 0.01
    session.handle(messages.SetPhysics("mass", 2.0))
    model = session.source._model
    assert model.body_mass[1] == pytest.approx(2.0 * session.source._usual["body_mass"][1])


class Painted(gymnasium.Env):
    """An environment that draws itself, brighter at each step."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, render_mode=None):
        self.render_mode, self.steps = render_mode, 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, False, False, {"reward_first": 0.25}

    def render(self):
        return np.full((8, 12, 3), min(10 * self.steps, 255), np.uint8)


def test_environment_without_a_model_is_shown_by_its_own_pictures():
    gymnasium.register("GantryView/Painted-v0", lambda render_mode=None: Painted(render_mode))
    session = session_of("GantryView/Painted-v0")
    latest = play(session, 60)
    assert unpack(latest["scene"])[0]["drawn"] == "picture"
    header, arrays = unpack(latest["frame"])
    assert arrays["jpeg"][:2].tobytes() == b"\xff\xd8"
    assert header["steps"] in (20, 21)
    assert unpack(latest["plots"])[0]["terms"] == ["first"]


def test_actions_of_a_run_above_skills_are_skills_and_each_takes_its_steps(tmp_path):
    from gantry.agents import PPOConfig
    from gantry.runs.folder import Run
    from gantry.runs.train import train

    train(Run(tmp_path / "skill"), "gantry/ReachPlanar-v0", "ppo", PPOConfig(num_envs=2, rollout_steps=4), 8)
    options = {"skills": [str(tmp_path / "skill")], "skill_steps": 5}
    session = session_of("gantry/ReachPlanarOrder-v0", options=options)
    session.handle(messages.Act([1.0]))
    latest = play(session, 30)
    (knob,) = unpack(latest["settings"])[0]["knobs"]
    assert (knob["low"], knob["high"], len(knob["choices"])) == (0.0, 2.0, 3)
    header = unpack(latest["frame"])[0]
    assert header["steps"] % 5 == 0
    assert header["steps"] == pytest.approx(header["time"] / session.source._env.control_timestep, abs=5)
    assert "notice" not in latest


class Later(Future):
    """A result that is there when a test says so; nobody waits for it."""

    def result(self, timeout=None):
        if timeout is not None and not self.done():
            raise TimeoutError
        return super().result()


class Worker:
    """Does work when a test says so."""

    def __init__(self):
        self.waiting = []

    def __call__(self, work):
        self.waiting.append((Later(), work))
        return self.waiting[-1][0]

    def work(self):
        for future, work in self.waiting:
            future.set_result(work())
        self.waiting.clear()


def test_policy_is_loaded_beside_the_picture_and_acts_from_the_first_step():
    worker = Worker()
    session = session_of(policy=Constant(), submit=worker)
    latest = play(session, 20)
    assert unpack(latest["settings"])[0]["loading"]
    assert unpack(latest["frame"])[0]["steps"] == 0
    session.handle(messages.Step())
    assert "loaded" in unpack(dict(session.messages())["notice"])[0]["text"]
    session.handle(messages.Play(True))
    worker.work()
    assert not unpack(play(session, 1)["settings"])[0]["loading"]
    worker.work()
    header, arrays = unpack(play(session, 3)["plots"])
    assert arrays["rows"].reshape(-1, header["columns"])[0, -1] == 0.5


@pytest.mark.parametrize("together", [1, 2])
def test_slow_policy_is_shown_at_its_own_pace(together):
    worker, at_once = Worker(), 0
    session = session_of(policy=Constant(), submit=worker)
    times, slow = [], False
    for tick in range(600):
        latest = play(session, 1)
        if tick % (12 * together) == 0:  # an action takes 0.2 s; a planner may plan several together
            at_once = together
        if at_once and worker.waiting:
            worker.work()
            at_once -= 1
        if tick > 300 and "frame" in latest:
            times.append(unpack(latest["frame"])[0]["time"])
            slow |= unpack(latest["frame"])[0]["slow"]
    assert slow
    assert len(times) > 240, "a picture at nearly every tick"
    assert np.diff(times).max() < 0.01, "no control step at a stroke"
    assert times[-1] == pytest.approx(600 / 60 * 0.1, rel=0.3)


def test_planner_draws_its_rollouts():
    from gantry.agents import PETS, PlannerConfig
    from gantry.agents.models.plan_search import SearchConfig

    config = PlannerConfig(dynamics="simulator", search=SearchConfig(horizon=4, population=8, iterations=1))
    policy = PETS(open_env(SWING_UP, 1), config, seed=0)
    latest = play(session_of(policy=policy), 2)
    assert unpack(latest["markers"])[1]["lines"].size >= 4 * 11


# The scene


def test_scene_holds_what_is_visible():
    model = mujoco.MjModel.from_xml_string("""
      <mujoco><asset><texture name="t" type="2d" builtin="checker" width="8" height="8" rgb1="1 0 0"/>
        <material name="m" texture="t" texrepeat="2 3"/><material name="g" rgba="0 1 0 1"/>
        <mesh name="tetra" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/>
        <hfield name="h" nrow="3" ncol="4" size="1 1 .5 .1"/></asset>
      <worldbody><geom type="plane" size="0 0 1" material="m"/><geom type="hfield" hfield="h"/>
        <geom size=".1" group="3"/><geom size=".1" rgba="1 0 0 0"/>
        <body><freejoint/><geom type="mesh" mesh="tetra" material="g"/><geom type="capsule" size=".1 .2"/>
          <site name="s" size=".02"/></body></worldbody></mujoco>""")
    header, arrays = unpack(scene_message(model, {"epoch": 1}))
    kinds = [shape["kind"] for shape in header["shapes"]]
    assert kinds == ["plane", "hfield", "mesh", "capsule", "sphere"]
    assert header["shapes"][0]["repeat"] == [2.0, 3.0]
    assert arrays["texture0"].size == 8 * 8 * 4
    assert header["shapes"][2]["rgba"] == [0.0, 1.0, 0.0, 1.0]
    assert arrays["mesh0/index"].max() < arrays["mesh0/position"].size // 3
    assert arrays["hfield0/index"].size == 2 * 3 * 2 * 3
    for name in ("mesh0", "hfield0"):
        normals = arrays[f"{name}/normal"].reshape(-1, 3)
        assert np.linalg.norm(normals, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_tendons_are_lines_that_pulleys_cut():
    model = mujoco.MjModel.from_xml_string("""
      <mujoco><worldbody><site name="a" pos="0 0 1"/><site name="c" pos="2 0 1"/><body><freejoint/><geom size=".1"/>
        <site name="b" pos="1 0 0"/></body></worldbody>
      <tendon><spatial width=".01" rgba="1 0 0 1"><site site="a"/><site site="b"/><pulley divisor="2"/>
        <site site="b"/><site site="c"/></spatial></tendon></mujoco>""")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    lines = tendon_lines(model, data)
    assert [line.points.tolist() for line in lines] == [[[0, 0, 1], [1, 0, 0]], [[1, 0, 0], [2, 0, 1]]]
    assert lines[0].radius == 0.01


def test_poses_between_two_take_the_short_way():
    first = np.array([[0, 0, 0, 1, 0, 0, 0]], np.float32)
    second = np.array([[2, 0, 0, -np.cos(0.2), 0, 0, -np.sin(0.2)]], np.float32)
    middle = between(first, second, 0.5)[0]
    assert middle == pytest.approx([1, 0, 0, np.cos(0.1), 0, 0, np.sin(0.1)], abs=1e-6)


def test_markers_leave_out_what_is_not_finite():
    path = Marker(np.array([[0.0, 0, 0], [np.nan, 0, 0], [1.0, 0, 0]]))
    dots = Marker(np.array([[np.inf, 0, 0], [1.0, 2, 3]]), line=False)
    _, arrays = unpack(markers_message([path, dots], 1))
    assert arrays["lines"].reshape(-1, 11)[:, :6].tolist() == [[0, 0, 0, 1, 0, 0]]
    assert arrays["points"].reshape(-1, 8)[:, :3].tolist() == [[1, 2, 3]]


def test_pack_writes_what_json_lacks_as_null():
    header, arrays = unpack(pack("k", {"a": float("nan"), "b": [np.float32(1.5)]}, {"x": np.arange(3, dtype=np.uint8)}))
    assert header["a"] is None
    assert header["b"] == [1.5]
    assert arrays["x"].tolist() == [0, 1, 2]


# Who steers


def test_helm_stays_with_the_first_until_it_has_gone():
    helm, first, second, again = Helm(), *(Page(None) for _ in range(3))
    helm.join(first, "key-first", 0.0)
    helm.join(second, "key-second", 1.0)
    assert helm.holder is first
    helm.leave(first, 10.0)
    assert helm.holder is None  # it may be loading again
    helm.join(again, "key-first", 11.0)
    assert helm.holder is again
    helm.leave(again, 20.0)
    assert not helm.settle(20.0 + RETURN_SECONDS / 2)
    assert helm.settle(20.0 + RETURN_SECONDS)
    assert helm.holder is second


# The server


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        running.publish("settings", pack("settings", {"x": 1}))
        yield running


def place(server):
    """Port and token of a server."""
    _, _, host, token, _ = server.address.split("/")
    return int(host.rpartition(":")[2]), token


def ask(port, text, more=b""):
    """Send a request and return all that is answered until the server closes or falls silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall((text if isinstance(text, bytes) else text.encode("latin-1")) + more)
        answer = b""
        connection.settimeout(0.3 if more else 5)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while part := connection.recv(65536):
                answer += part
        return answer


def head(port, path, host=None, origin=None, method="GET", upgrade=True):
    """The head of a request, for the WebSocket if `upgrade`."""
    host = host or f"127.0.0.1:{port}"
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    if upgrade:
        key = base64.b64encode(b"0123456789abcdef").decode()
        lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        lines += [f"Origin: {origin or f'http://{host}'}"]
    return "\r\n".join([*lines, "", ""])


def masked(content, kind=0x81):
    """A short message as a browser sends it."""
    mask = b"\x11\x22\x33\x44"
    body = bytes(each ^ mask[k % 4] for k, each in enumerate(content))
    size = bytes([0x80 | len(content)]) if len(content) < 126 else b"\xfe" + len(content).to_bytes(2, "big")
    return bytes([kind]) + size + mask + body


def status(answer):
    return int(answer.split(b" ", 2)[1]) if answer else None


def test_server_listens_on_this_machine_alone(server):
    port, _ = place(server)
    listening = [
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) == port
    ]
    assert listening == [f"0100007F:{port:04X}"]


def test_page_needs_the_token_and_this_machines_name(server):
    port, token = place(server)
    page = ask(port, head(port, f"/{token}/", upgrade=False))
    assert status(page) == 200
    assert b"script-src 'nonce-" in page
    assert b"NONCE" not in page
    assert b"http://" not in page.partition(b"\r\n\r\n")[2]  # no network but the page's own socket
    assert status(ask(port, head(port, f"/{token}/", host="localhost:9999", upgrade=False))) == 200  # through ssh -L
    for path in ("/", "/favicon.ico", f"/{token[:-1]}/", f"/{token}/../../etc/passwd", f"/{token}/page.html", "//"):
        assert status(ask(port, head(port, path, upgrade=False))) == 404
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil",
        "192.168.0.5",
        "a b",
    ):
        assert status(ask(port, head(port, f"/{token}/", host=host, upgrade=False))) == 403
    assert status(ask(port, head(port, f"/{token}/", method="POST", upgrade=False))) == 405


def test_websocket_needs_the_pages_own_origin(server):
    port, token = place(server)
    good = head(port, f"/{token}/live")
    assert status(ask(port, good, masked(b"", 0x88))) == 101
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{port + 1}", f"https://127.0.0.1:{port}"):
        assert status(ask(port, head(port, f"/{token}/live", origin=origin))) == 403
    assert status(ask(port, head(port, "/wrong/live"))) == 404
    assert status(ask(port, good.replace("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"))) == 400
    assert status(ask(port, good.replace("Origin:", "X:"))) == 403
    assert status(ask(port, good.replace("Origin:", "Host: evil.example\r\nOrigin:"))) == 400  # two hosts


def test_broken_protocol_ends_that_connection_alone(server):
    port, token = place(server)
    good = head(port, f"/{token}/live")
    codes = {
        masked(b"hello"): 1008,  # not a command
        b"\x81\x05hello": 1002,  # not masked
        masked(b"x", 0x01): 1002,  # a part of a message
        masked(b"x", 0x83): 1002,  # a kind that there is none of
        masked(b"x", 0xF1): 1002,  # reserved bits
        masked(b"x" * 200, 0x89): 1002,  # a long ping
        b"\x81\xff" + (2**62).to_bytes(8, "big") + b"1234": 1009,
        b"\x81\xfe\xff\xff1234": 1009,
    }
    for content, code in codes.items():
        answer = ask(port, good, content)
        assert status(answer) == 101
        assert answer[-2:] == code.to_bytes(2, "big"), content
    for text in (
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"A" * 20000,
    ):
        assert status(ask(port, text)) in (400, None)
    assert status(ask(port, head(port, f"/{token}/", upgrade=False))) == 200
    assert not list(server.commands())


@given(st.binary(max_size=400), st.booleans())
@settings(max_examples=15, deadline=None)
def test_server_survives_arbitrary_bytes(content, upgraded):
    with Server() as running:
        port, token = place(running)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall((head(port, f"/{token}/live").encode() if upgraded else b"") + content)
        assert status(ask(port, head(port, f"/{token}/", upgrade=False))) == 200


def test_only_the_first_page_steers():
    with Server() as running, contextlib.ExitStack() as stack:
        port, token = place(running)
        pages = []
        for number in range(2):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            connection.sendall(head(port, f"/{token}/live").encode())
            assert b"101" in _until(connection, b"101")
            assert running.pages == number, "the simulation does not begin for a page that has drawn nothing"
            connection.sendall(masked(json.dumps({"do": "hello", "key": f"key-of-{number}"}).encode()))
            assert b'"steers": ' + (b"false", b"true")[number == 0] in _until(connection, b'"steers": ', number == 0)
            pages.append(connection)
        pages[1].sendall(masked(b'{"do":"step"}'))
        pages[1].sendall(masked(b"", 0x89))
        assert b"\x8a\x00" in _until(pages[1], b"\x8a\x00")  # the ping's answer: the command before it has been read
        pages[0].sendall(masked(b'{"do":"play","on":false}'))
        deadline = time.monotonic() + 5
        commands = []
        while not commands and time.monotonic() < deadline:
            commands = list(running.commands())
        assert commands == [messages.Play(False)]
        assert running.pages == 2


def _until(connection, text, twice=False):
    """All that is received until it holds `text`, or holds it as true."""
    wanted, received = text + b"true" if twice else text, b""
    while wanted not in received:
        received += connection.recv(65536)
    return received


def test_page_gets_the_latest_of_each_kind():
    page = Page(None)
    for kind, message in (("scene", b"1"), ("frame", b"2"), ("frame", b"3"), ("scene", b"4")):
        page.put(kind, message)
    assert list(page.waiting.items()) == [("frame", b"3"), ("scene", b"4")]


def test_accept_key_is_that_of_the_standard():
    assert websocket.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, 1.3


def test_other_addresses_need_an_explicit_word():
    for host in ("0.0.0.0", "192.168.1.2", "::", "example.org"):
        with pytest.raises(GantryError, match="--allow-network"):
            Server(host)
    assert not names_this_machine("10.0.0.7:80", network=False)
    assert names_this_machine("10.0.0.7:80", network=True)
    assert not names_this_machine("evil.example", network=True)


def test_taken_port_is_one_line(server):
    port, _ = place(server)
    with pytest.raises(GantryError, match="choose another --port"), Server(port=port):
        pass


# Training


def test_training_watch_takes_each_saved_policy_and_draws_the_curve(tmp_path):
    loaded = []

    def load():
        loaded.append(Constant())
        return loaded[-1]

    now = [0.0]
    watch, session = TrainingWatch(tmp_path, load, clock=lambda: now[0]), session_of()
    assert watch(session) == []
    (tmp_path / "policy.safetensors").write_bytes(b"1")
    (tmp_path / "metrics.csv").write_text("steps,score,wall_seconds\r\n10,nan,1\r\n20,5,2\r\n")
    now[0] = 10.0
    ((kind, message),) = watch(session)
    assert kind == "curve"
    header, arrays = unpack(message)
    assert (header["metric"], arrays["x"].tolist(), arrays["y"].tolist()) == ("score", [20.0], [5.0])
    assert session.policy is loaded[0]
    now[0] = 20.0
    assert watch(session) == []
    assert len(loaded) == 1


def test_curve_is_thinned_and_ends_with_the_last_row():
    rows = [{"steps": float(k), "score": 1.0} for k in range(1, 5002)]
    _, arrays = unpack(curve_message(rows))
    assert arrays["x"].size <= 402
    assert arrays["x"][-1] == 5001


# The command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a run"),
        (["no/such/run"], "no run at no/such/run"),
        (["--training", "a", "b"], "name one"),
        (["CartPoleSwingUp-v0", "--port", "99999"], "--port"),
        (["CartPoleSwingUp-v0", "--seed", "-1"], "a seed must be from 0"),
        (["CartPoleSwingUp-v0", "--host", "0.0.0.0"], "--allow-network"),
    ],
)
def test_wrong_use_is_one_line(words, said):
    with pytest.raises(GantryError, match=said):
        view_main(words)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_command_ends_with_its_terminal(number):
    words = [sys.executable, "-m", "gantry", "view", "CartPoleSwingUp-v0"]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # noqa: PLW1509 (`nohup make test &` would ignore it)
    ) as process:
        address = process.stdout.readline()
        assert address.startswith("http://127.0.0.1:"), process.stderr.read()
        process.send_signal(number)
        try:
            assert process.wait(20) == 130
        finally:
            process.kill()
        assert process.stderr.read() == "gantry: stopped\n"
        with pytest.raises(ConnectionRefusedError):
            ask(int(address.split("/")[2].rpartition(":")[2]), b"GET / HTTP/1.1\r\n\r\n")


# The page


CTRL = 2
"""The protocol's number of the key that is held."""
PLACE_OF_CART = """(() => {
  const {eye, forward} = camera.from(), right = unit(cross(forward, [0, 0, 1])), up = cross(right, forward);
  const w = $("view").clientWidth, h = $("view").clientHeight, t = camera.wide(w / h);
  const d = sub([...poses.subarray(7, 10)], eye);
  return [w / 2 * (1 + dot(d, right) / dot(d, forward) / (t * w / h)), h / 2 * (1 - dot(d, up) / dot(d, forward) / t)];
})()"""


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here")
def test_page_in_chromium(tmp_path):
    """Loads without errors, the picture moves, pause pauses, a push moves the robot, a second browser only watches."""
    pytest.importorskip("websockets")
    words = [sys.executable, "-m", "gantry", "view", SWING_UP]
    with browser.chromium(tmp_path / "profile") as opened, contextlib.ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        stack.callback(process.terminate)
        address = process.stdout.readline().strip()
        tab, other = opened.tab(), opened.tab()
        tab.open(address)
        tab.wait("document.body && document.body.dataset.pictures > 3 && document.body.dataset.steers === 'true'", 60)
        first = tab.screenshot()
        other.open(address)
        other.wait(
            "document.body && document.body.dataset.pictures > 0 && document.body.dataset.steers === 'false'", 60
        )
        other.evaluate(
            "steers = true, $('play').disabled = false, $('play').click()"
        )  # a page that has been tampered with
        before = float(tab.evaluate("document.body.dataset.time"))
        tab.wait(f"+document.body.dataset.time > {before} + .3")
        assert tab.screenshot() != first
        tab.evaluate("$('play').click()")
        tab.wait("document.body.dataset.playing === 'false'")
        time.sleep(0.3)
        still = tab.evaluate("[document.body.dataset.time, ...poses].join()")
        time.sleep(0.5)
        assert tab.evaluate("[document.body.dataset.time, ...poses].join()") == still
        place = tab.evaluate("poses[7]")
        tab.evaluate("$('strength').value = 5, push(1, 0), 0")
        for _ in range(20):
            tab.evaluate("$('step').click()")
        tab.wait(f"Math.abs(poses[7] - {place}) > .02")
        tab.evaluate("$('ball').click()")
        tab.wait("scene.bodies === 6")
        place = tab.evaluate("poses[7]")
        x, y = tab.evaluate(PLACE_OF_CART)
        for kind, at in (("mousePressed", x), ("mouseMoved", x - 60), ("mouseMoved", x - 120)):
            tab.call("Input.dispatchMouseEvent", type=kind, x=at, y=y, button="left", buttons=1, modifiers=CTRL)
            time.sleep(0.1)
        for _ in range(20):
            tab.evaluate("$('step').click()")
        tab.wait(f"poses[7] < {place} - .1")
        tab.call("Input.dispatchMouseEvent", type="mouseReleased", x=x - 120, y=y, button="left", modifiers=CTRL)
        assert not tab.errors
        assert not other.errors
        assert os.path.exists(f"/proc/{process.pid}")
