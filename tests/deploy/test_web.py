"""The page in a browser: headless Chromium, LiteRT.js, and LiteRT beside it."""

import contextlib
import functools
import http.server
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import tempfile
import threading

import keras
import numpy as np
import pytest

import kdtf
from kdtf.export.web.runtime import VERSION
from kdtf.export.web.runtime import find_runtime
from kdtf.export.web.runtime import install_runtime
from kdtf.litert import Runner

pytestmark = pytest.mark.deploy

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
TIME_LIMIT_SECONDS = 300
# Stands beside the page, has it run, and says what came of it.
PROBE = """<!doctype html>
<iframe id="page" src="/index.html"></iframe>
<script type="module">
const answer = {};
try {
  const frame = document.getElementById("page");
  const cases = await (await fetch("/cases.json")).json();
  for (let tries = 0; !frame.contentWindow.kdtf; tries++) {
    if (tries > 3000) throw new Error("the page's script does not run");
    await new Promise(r => setTimeout(r, 20));
  }
  const page = frame.contentWindow;
  await page.kdtf.ready;
  answer.results = [];
  for (const one of cases) {
    const text = typeof one === "string";
    const numbers = text ? page.kdtf.encode(one) : one;
    answer.results.push(await page.kdtf.run(numbers));
  }
  const wrong = page.kdtf.run({}).then(() => "", error => error.message);
  answer.refusal = await wrong;
  const canvas = page.document.querySelector("canvas");
  if (canvas) {
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(2, 2, 3, 3);
  }
  page.document.getElementById("run").click();
  const outputs = page.document.getElementById("outputs");
  while (!outputs.children.length) await new Promise(r => setTimeout(r, 20));
  answer.shown = outputs.innerText;
} catch (error) {
  answer.error = `${error} ${error.stack}`;
}
await fetch("/answer", {method: "POST", body: JSON.stringify(answer)});
</script>
"""


@pytest.fixture(scope="module")
def runtime():
    """LiteRT.js, which npm puts into a folder that outlives the test."""
    folder = pathlib.Path(tempfile.gettempdir(), f"kdtf-litertjs-{VERSION}")
    try:
        return find_runtime(folder)
    except ValueError:
        return install_runtime(folder)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the page; takes the answer."""

    def __init__(self, *arguments, answers, **options):
        self.answers = answers
        super().__init__(*arguments, **options)

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.answers.put(json.loads(self.rfile.read(length)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def served(folder):
    answers = queue.Queue()
    handler = functools.partial(
        Handler, directory=os.fspath(folder), answers=answers
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", answers
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def browse(tmp_path):
    """Opens a page in Chromium, gives it cases, and returns the answer."""

    def run(folder, cases):
        listed = [
            case
            if isinstance(case, str)
            else {name: value.ravel().tolist() for name, value in case.items()}
            for case in cases
        ]
        (folder / "cases.json").write_text(json.dumps(listed))
        (folder / "probe.html").write_text(PROBE)
        command = [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
            f"--user-data-dir={tmp_path / 'profile'}",
        ]
        with served(folder) as (address, answers):
            process = subprocess.Popen(
                [*command, f"{address}/probe.html"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                answer = answers.get(timeout=TIME_LIMIT_SECONDS)
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(timeout=60)
        assert "error" not in answer, answer["error"]
        return answer

    return run


def cnn():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((12, 12, 1), name="image"),
            layers.Conv2D(8, 3, activation="relu"),
            layers.DepthwiseConv2D(3, activation="relu6"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, activation="softmax"),
        ]
    )


def check(path, folder, answer, cases, *, tolerance):
    """Compares each output with LiteRT's, in shares of its largest value."""
    runner = Runner(path)
    assert len(answer["results"]) == len(cases)
    for case, result in zip(cases, answer["results"], strict=True):
        expected = runner(case)
        assert set(result) == set(expected)
        for name, value in expected.items():
            error = np.abs(np.array(result[name]) - value.ravel()).max()
            assert error <= tolerance * np.abs(value).max()
    assert np.ptp(value) > 0


@pytest.mark.parametrize(
    "mode, tolerance", [(None, 1e-5), ("float16", 1e-5), ("int8", 1e-2)]
)
def test_a_cnn_gives_the_same_in_the_browser(
    tmp_path, rng, runtime, browse, mode, tolerance
):
    model = cnn()
    images = rng.uniform(size=(30, 12, 12, 1)).astype("float32")
    path = tmp_path / "cnn.tflite"
    kdtf.export_tflite(model, path, quantize=mode, representative_data=images)
    page = kdtf.write_web_page(
        path, tmp_path / "page", runtime=runtime, labels=["a", "b", "c", "d"]
    )
    cases = [{"image": images[i : i + 1]} for i in range(5)]
    answer = browse(page.path, cases)
    check(path, page.path, answer, cases, tolerance=tolerance)
    assert answer["refusal"] == "image takes 144 numbers, not undefined."
    drawn = np.zeros((1, 12, 12, 1), "float32")
    drawn[0, 2:5, 2:5] = 1.0
    scores = Runner(path)({"image": drawn})["output_0"][0]
    # What the form shows: the best label first.
    lines = answer["shown"].split()
    assert lines[0] == "output_0"
    assert "abcd"[scores.argmax()] == next(x for x in lines if x in "abcd")


def test_a_transformer_gives_the_same_in_the_browser(
    tmp_path, rng, runtime, browse, tiny_transformer
):
    data = {
        "token_ids": rng.integers(0, 32, (5, 8)).astype("int32"),
        "padding_mask": np.ones((5, 8), "int32"),
    }
    path = tmp_path / "lm.tflite"
    kdtf.export_tflite(
        tiny_transformer, path, quantize="dynamic_int8", verify_data=data
    )
    page = kdtf.write_web_page(path, tmp_path / "page", runtime=runtime)
    cases = [{k: v[i : i + 1] for k, v in data.items()} for i in range(5)]
    answer = browse(page.path, cases)
    check(path, page.path, answer, cases, tolerance=0.02)


VOCABULARY = """
[PAD] [UNK] [CLS] [SEP] [MASK] good bad ##s ##ness film the f ##il ##m caf é
##é café strasse ss σ ος ##ς ##σ ı i ##i ' - ! 日 本 한국 ﬁ fi ##lm 1 ½ ⁄ 2 a b
""".split()
TEXTS = [
    "The good film.",
    "GOODNESS bads unknownword filmfilm",
    "  tabs\tand\nlines\u00a0and\u3000wide\u200bspaces ",
    "Café CAFÉ cafe\u0301 caf\u00e9s",
    "Straße STRASSE ß ẞ",
    "ΣΟΣ σος Σ ς",
    "İ ı I i",
    "it's good-bad!! [CLS] [MASK] $^`~|",
    "日本film日 \U00020000 \uf900 한국",
    "ﬁlm ½ ① ＡＢ ａｂ",
    "so\u00adft a\ufeffb a\u200db",
    "x" * 101,
    "good" + "s" * 96 + " good" + "s" * 97,
    "é" * 50 + " " + "é" * 51,
    "good " * 30,
    "",
    "😀 good 👍🏽",
]


@pytest.fixture(scope="module")
def preprocessor():
    import keras_nlp

    return keras_nlp.models.BertTextClassifierPreprocessor(
        keras_nlp.models.BertTokenizer(VOCABULARY, lowercase=True),
        sequence_length=16,
    )


def test_a_page_splits_texts_as_keras_nlp_does(tmp_path, preprocessor):
    source = pathlib.Path(kdtf.__file__).parent / "export/web/wordpiece.js"
    shutil.copyfile(source, tmp_path / "wordpiece.mjs")
    (tmp_path / "asked.json").write_text(json.dumps([VOCABULARY, TEXTS]))
    (tmp_path / "main.mjs").write_text("""
import fs from "node:fs";
import {tokenizer} from "./wordpiece.mjs";
const [vocabulary, texts] = JSON.parse(fs.readFileSync("asked.json"));
console.log(JSON.stringify(texts.map(tokenizer(vocabulary, 16))));
""")
    done = subprocess.run(
        ["node", "main.mjs"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for text, found in zip(TEXTS, json.loads(done.stdout), strict=True):
        expected = preprocessor(text)
        assert found["ids"] == np.asarray(expected["token_ids"]).tolist(), text
        mask = np.asarray(expected["padding_mask"]).astype(int).tolist()
        assert found["mask"] == mask, text
        assert found["segments"] == [0] * 16


def test_a_text_gives_the_same_in_the_browser(
    tmp_path, runtime, browse, preprocessor
):
    import keras_nlp

    backbone = keras_nlp.models.BertBackbone(
        len(VOCABULARY), 1, 2, 8, 16, max_sequence_length=16
    )
    model = keras_nlp.models.BertTextClassifier(
        backbone, 2, preprocessor=preprocessor
    )
    path = tmp_path / "bert.tflite"
    said = kdtf.export.TextMetadata(labels=["no", "yes"])
    data = preprocessor(TEXTS)
    kdtf.export_tflite(model, path, metadata=said, verify_data=data)
    page = kdtf.write_web_page(path, tmp_path / "page", runtime=runtime)
    answer = browse(page.path, TEXTS)
    cases = [
        {k: np.asarray(v)[i : i + 1].astype("int32") for k, v in data.items()}
        for i in range(len(TEXTS))
    ]
    check(path, page.path, answer, cases, tolerance=1e-5)
    assert "text" not in answer["refusal"] and "takes 16" in answer["refusal"]
    assert {"yes", "no"} < set(answer["shown"].split())


def test_npm_fetches_the_runtime(tmp_path, rng):
    path = tmp_path / "cnn.tflite"
    kdtf.export_tflite(cnn(), path)
    page = kdtf.write_web_page(path, tmp_path / "page", runtime="npm")
    assert page.runtime_version == VERSION
    wasm = page.path / "litert/wasm/litert_wasm_internal.wasm"
    assert wasm.read_bytes()[:4] == b"\0asm"
