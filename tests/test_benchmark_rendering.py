"""`gantry bench rendering`: the ray caster beside itself without its savings, and beside OpenGL."""

from gantry.benchmark import rendering


def test_rendering_rows_name_every_renderer(monkeypatch):
    monkeypatch.setattr(rendering, "PICTURES", 2)
    rows = []
    rendering.measure(rows.append, ["gantry/CartPoleBalance-v0"], (64, 48), repeats=1)
    rate, anew, *opengl = rows
    assert rate.unit == "pictures/s"
    assert rate.value > 0.0
    assert "every pixel anew" in anew.name
    assert anew.value > 0.0
    assert {row.name.partition(":")[2].partition(",")[0] for row in opengl} == {
        " OpenGL through EGL",
        " OpenGL through OSMesa",
    }
    assert all((row.value is None) == bool(row.note) for row in opengl)
