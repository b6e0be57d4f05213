"""What bad input gets: one clear sentence, a stated rule or a failed row; never a traceback, never a partial result."""

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import attack_images, demo, records, report, score_images
from nriqa_jax.models.cnniqa import cnniqa
from weights_convert.store import describe, save_variables

SIDE = 40
PICTURE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE + 8, 3), dtype=np.uint8)


def save(pixels=PICTURE, mode=None, **options):
    def write(path):
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(path, **options)

    return write


def cut(write, share):
    def write_part(path):
        write(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return write_part


def as_bytes(data):
    return lambda path: path.write_bytes(data)


def rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PICTURE).save(path, exif=exif)


def animated(path):
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


GREY, ALPHA = PICTURE[..., 0], np.dstack([PICTURE, np.full(PICTURE.shape[:2], 9, np.uint8)])
DEEP = np.minimum(GREY.astype(np.uint32) * 257 + 100, 65535).astype(np.uint16)

GOOD_IMAGES = {
    "grey.png": (save(GREY), np.dstack([GREY] * 3)),
    "alpha.png": (save(ALPHA), PICTURE),
    "sixteen bits.png": (save(DEEP), np.dstack([GREY] * 3)),
    "rotated.png": (rotated, np.rot90(PICTURE, -1)),
    "animated.png": (animated, PICTURE),
    "png inside.jpg": (lambda path: save(format="PNG")(path), PICTURE),
    "upper.PNG": (save(format="PNG"), PICTURE),
    'quote " comma , öü.png': (save(), PICTURE),
    "line\nbreak.png": (save(), PICTURE),
    "deep/down/grey.png": (save(), PICTURE),
    "palette.gif": (save(GREY, "P"), np.dstack([GREY] * 3)),
    "one bit.png": (save(GREY > 128), np.dstack([(GREY > 128).astype(np.uint8) * 255] * 3)),
}
DECODED_IMAGES = {"cmyk.jpg": save(mode="CMYK", format="JPEG"), "cmyk.tif": save(mode="CMYK")}
BAD_IMAGES = {
    "truncated.png": (cut(save(), 0.5), "cannot be read"),
    "truncated.jpg": (cut(save(format="JPEG"), 0.6), "cannot be read"),
    "empty.png": (as_bytes(b""), "is empty"),
    "text.png": (as_bytes(b"hello"), "is not an image that can be read"),
    "page.jpg": (as_bytes(b"<!doctype html><html></html>"), "is not an image that can be read"),
    "tiny.png": (save(PICTURE[:1, :1]), "is 1x1 pixels; this model needs at least 32 on each side"),
    "flat.png": (save(PICTURE[:31]), "is 48x31 pixels"),
    "huge.ppm": (
        as_bytes(b"P6 100000 100000 255\n" + bytes(99)),
        "100000x100000 pixels are more than the limit of 64 megapixels",
    ),
    "float.tif": (save(GREY.astype(np.float32)), "holds floating-point values"),
    "wide.tif": (save(GREY.astype(np.int32) * 100_000), "holds 32-bit integers"),
}


def fill(folder, files):
    for name, write in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name)


@pytest.mark.parametrize("name", GOOD_IMAGES)
def test_image_rules(name, tmp_path):
    write, expected = GOOD_IMAGES[name]
    fill(tmp_path, {name: write})
    np.testing.assert_array_equal(records.load_image(tmp_path / name), expected)
    assert records.read_size(tmp_path / name) == expected.shape[:2]


@pytest.fixture(scope="module")
def mixed_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    fill(folder, {name: write for name, (write, _) in GOOD_IMAGES.items()} | DECODED_IMAGES)
    fill(folder, {name: write for name, (write, _) in BAD_IMAGES.items()} | {"notes.txt": as_bytes(b"no image")})
    (folder / "folder.png").mkdir()
    (folder / "nowhere.png").symlink_to(folder / "missing")
    return folder


def test_bad_images_fail_alone_in_a_scoring_run(mixed_folder, tmp_path, script):
    code, printed, _ = script(score_images, model="tinyiqa", weights="random", images=mixed_folder, out=tmp_path)
    good = {*GOOD_IMAGES, *DECODED_IMAGES}
    assert code == 1
    assert f"{len(good)} of {len(good) + len(BAD_IMAGES)} images scored" in printed
    table = score_images.ledger.Table(tmp_path / "scores.csv", score_images.ledger.SCORE_COLUMNS)
    assert list(table.rows) == sorted(good | set(BAD_IMAGES))
    for name in good:
        assert table.rows[name]["status"] == "ok", table.rows[name]
    for name, (_, message) in BAD_IMAGES.items():
        assert table.rows[name]["status"] == "failed"
        assert message in table.rows[name]["error"]
        assert not table.rows[name]["score"]


def test_bad_images_fail_alone_in_an_attack(mixed_folder, tmp_path, script):
    code, _, _ = script(
        attack_images, model="tinyiqa", weights="random", images=mixed_folder, out=tmp_path, steps=1, epsilon="2/255"
    )
    assert code == 1
    table = attack_images.ledger.Table(tmp_path / "rows.csv", attack_images.ledger.ATTACK_COLUMNS)
    saved = {path.relative_to(tmp_path / "adversarial").as_posix() for path in tmp_path.rglob("adversarial/**/*.png")}
    assert sum(row["status"] == "ok" for row in table.rows.values()) == len(saved) == len(GOOD_IMAGES) + 2
    assert {"cmyk.jpg.png", "cmyk.tif.png", "deep/down/grey.png", "upper.png"} <= saved


def html(path):
    path.write_bytes(b"<!DOCTYPE html><html><body>Quota exceeded</body></html>")


def not_finite(path):
    variables = cnniqa().init(jax.random.key(0))
    variables["params"]["fc3"]["bias"] = np.array([np.nan], np.float32)
    save_variables(path, variables, describe(cnniqa()))


def other_model(path):
    save_variables(path, cnniqa().init(jax.random.key(0)), {**describe(cnniqa()), "model": "dbcnn"})


def evil(path):
    path.write_bytes(b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00false\x85R.")


BAD_FLAGS = {
    "no such model": ({"model": "vgg"}, "--model=vgg", "cnniqa"),
    "no such attack": ({"attack": "deepfool"}, "--attack=deepfool", "ifgsm"),
    "no such objective": ({"objective": "up"}, "--objective=up", "raise_score"),
    "no such flag": ({"epsilom": "1/255"}, "epsilom"),
    "epsilon zero": ({"epsilon": "0"}, "--epsilon=0 is outside (0, 1]", "4/255"),
    "epsilon negative": ({"epsilon": "-4/255"}, "outside (0, 1]"),
    "epsilon in levels": ({"epsilon": "4"}, "outside (0, 1]"),
    "epsilon text": ({"epsilon": "small"}, "--epsilon=small is not a number"),
    "epsilon by zero": ({"epsilon": "4/0"}, "is not a number"),
    "step size zero": ({"step_size": "0/255"}, "--step_size=0/255 is outside"),
    "no steps": ({"steps": 0}, "--steps=0 must be at least 1"),
    "steps of fgsm": ({"attack": "fgsm", "steps": 3}, "--steps does not apply to --attack=fgsm"),
    "restarts of ifgsm": ({"restarts": 2}, "--restarts does not apply to --attack=ifgsm"),
    "steps text": ({"steps": "ten"}, "steps", "ten"),
    "no batch": ({"batch_size": -1}, "--batch_size=-1 must be at least 1, or 0 for what memory allows"),
    "no devices": ({"devices": -1}, "--devices=-1: there are 2 devices; give 0 for all of them"),
    "half a cluster": (
        {"num_processes": 2},
        "--coordinator=HOST:PORT, --num_processes and --process_id belong together",
    ),
    "no such process": (
        {"coordinator": "localhost:1", "num_processes": 2, "process_id": 2},
        "--process_id=2 must be below --num_processes=2",
    ),
    "precision": ({"precision": "fp8"}, "highest|tf32|bf16"),
    "no target": ({"objective": "target"}, "--target=SCORE and --objective=target belong together"),
    "idle target": ({"target": 50}, "belong together"),
    "no protocol": ({"protocol": "random"}, "--protocol=random", "published, grid"),
    "no folder": ({"images": "/nonexistent/folder"}, "--images=/nonexistent/folder does not exist"),
    "no images": ({"images": "EMPTY"}, "holds no image"),
    "no weights": ({"weights": "missing.pth"}, "--weights=missing.pth is not a file", "embedded"),
    "not embedded": ({"weights": "embedded"}, "cnniqa has no embedded weights"),
    "page as weights": ({"weights": html}, "HTML page"),
    "empty weights": ({"weights": as_bytes(b"")}, "empty"),
    "NaN weights": ({"weights": not_finite}, "1 not finite"),
    "weights of another model": ({"weights": other_model}, "these are weights of dbcnn, not of cnniqa"),
    "code in weights": ({"weights": evil}, "os.system"),
    "out is a file": ({"out": "FILE"}, "cannot be written"),
    "out among the images": ({"images": ".", "out": "inside"}, "--out=inside lies inside --images=."),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_get_one_sentence(case, photo_folder, tmp_path, script):
    changed, *expected = BAD_FLAGS[case]
    settings = {"model": "cnniqa", "weights": "random", "images": photo_folder, "out": tmp_path / "out"} | changed
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    if callable(settings["weights"]):
        path = tmp_path / ("w.safetensors" if settings["weights"] in (not_finite, other_model) else "w.pth")
        settings["weights"](path)
        settings["weights"] = path
    settings["images"] = tmp_path / "empty" if settings["images"] == "EMPTY" else settings["images"]
    settings["out"] = tmp_path / "file" if settings["out"] == "FILE" else settings["out"]
    code, printed, message = script(attack_images, **settings)
    assert code == 2
    assert not printed
    assert message.startswith("error: ")
    assert message.count("\n") == 1 or "not finite" in message  # a table of tensors
    assert all(text in message for text in expected), message
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "file").read_text() == "mine"


def test_words_without_a_flag(photo_folder, tmp_path, script):
    code, _, message = script(
        score_images, "folder", model="tinyiqa", weights="random", images=photo_folder, out=tmp_path
    )
    assert code == 2
    assert "unexpected argument 'folder'" in message


def test_missing_flags_are_named(script):
    code, _, message = script(score_images, model="tinyiqa")
    assert code == 2
    assert message == "error: missing --weights, --images, --out; see --help\n"


def test_a_folder_of_another_run_is_not_overwritten(photo_folder, tmp_path, script):
    settings = {"model": "tinyiqa", "weights": "random", "images": photo_folder, "out": tmp_path, "steps": 1}
    assert script(attack_images, **settings)[0] == 0
    before = (tmp_path / "rows.csv").read_bytes()
    code, _, message = script(attack_images, **settings, epsilon="2/255")
    assert code == 2
    assert "holds a run with flags.epsilon=4/255, now it is 2/255" in message
    assert (tmp_path / "rows.csv").read_bytes() == before


def test_an_impossible_folder(script):
    code, _, message = script(demo, out="/proc/nowhere")
    assert code == 2
    assert message.startswith("error: /proc/nowhere")
    assert message.count("\n") == 1


def test_a_folder_that_is_no_run(tmp_path, script):
    code, _, message = script(report, run=tmp_path)
    assert code == 2
    assert message.count("\n") == 1
