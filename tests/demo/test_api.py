"""The page as programs use it: endpoints, hostile requests, many visitors, nothing left behind."""

import http.client
import json
import os
import threading
import uuid
from functools import partial
from pathlib import Path

import pytest

from autogaze.gaze import Gaze
from tests.cli.commands import run
from tests.clips import make_video
from tests.demo.served import ROOT, served, wait_for
from tests.mllm import tiny, tiny_processor

pytestmark = [
    pytest.mark.slow,
    # Of the client library: sockets of its threads that nobody closes.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RUNS = int(os.environ.get("AUTOGAZE_DEMO_RUNS", "8"))
"""Runs after which memory is looked at; 50 for the whole measurement."""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    model = tmp_path_factory.mktemp("qwen")
    tiny_processor.checkpoint(model, "qwen3_vl")
    tiny.qwen3_vl().save_pretrained(model)
    limits = "--max-mb", 5, "--max-seconds", 30, "--max-waiting", 16
    with served(tmp_path_factory.mktemp("page"), *limits, "--model", model) as page:
        yield page


@pytest.fixture
def client(page):
    with connected(page) as client:
        yield client


def connected(page):
    from contextlib import closing

    from gradio_client import Client

    return closing(Client(page.url, verbose=False))


def sent(path):
    from gradio_client import handle_file

    return handle_file(str(path))


def test_numbers_and_files(client, tmp_path):
    video = make_video(tmp_path / "square.mp4", 8)
    numbers, gaze, *pictures = client.predict(
        sent(video), selector="greedy", ratio=0.05, fps=5, api_name="/gaze"
    )
    told = json.loads(run("gaze", video, "--ratio", 0.05, "--fps", 5, "--json").stdout)
    for name in ("kept", "total", "frames", "tiles", "selector"):
        assert numbers[name] == told[name]
    assert numbers["loss_mean"] == pytest.approx(told["loss_mean"], abs=1e-6)
    assert Gaze.load(gaze).num_patches == sum(told["kept"].values())
    assert [Path(one).name for one in pictures] == [
        f"square.{kind}"
        for kind in ("overlay.mp4", "scales.mp4", "reconstruction.mp4", "sheet.png")
    ]
    saved = numbers["flop"]["SigLIP2-base"]
    assert saved["saved"] == 1 - (saved["gazed"] + saved["selecting"]) / saved["dense"]


BAD_SETTINGS = [
    ({"ratio": 0}, "ratio"),
    ({"ratio": 1.5}, "ratio"),
    ({"loss": -1}, "loss"),
    ({"selector": "/etc"}, "unknown selector"),
    ({"selector": "nvidia/AutoGaze"}, "unknown selector"),
    ({"selector": "run-length", "loss": 0.1}, "loss"),
    ({"tiles": "0x3"}, "tiles"),
    ({"fps": -1}, "fps"),
    ({"start": 5, "end": 2}, "end"),
    ({"start": 1e9}, "square.mp4"),
    ({"seed": 1.5}, "seed"),
]


def test_bad_settings_are_told(client, tmp_path):
    video = sent(make_video(tmp_path / "square.mp4", 3))
    for settings, words in BAD_SETTINGS:
        with pytest.raises(Exception, match=words) as caught:
            client.predict(video, **settings, api_name="/gaze")
        assert "defect" not in str(caught.value)
        assert "autogaze-demo-" not in str(caught.value)


def test_a_header_that_promises_much(client, tmp_path):
    """10^9 frames: told at once, without an attempt at decoding them."""
    video = make_video(tmp_path / "many.mp4", 3)
    data = bytearray(video.read_bytes())
    place = data.index(b"stts") + 12
    data[place : place + 4] = (10**9).to_bytes(4, "big")
    video.write_bytes(data)
    with pytest.raises(Exception, match="asked for"):
        client.predict(sent(video), api_name="/gaze")


def test_an_upload_that_is_too_large_is_refused_before_it_is_sent(page):
    for length in ("2147483648", "99999999999999999999", "-1", "many"):
        connection = http.client.HTTPConnection(page.url.removeprefix("http://"), timeout=20)
        connection.putrequest("POST", "/gradio_api/upload")
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Content-Length", length)
        connection.endheaders()
        assert connection.getresponse().status in (400, 413)
        connection.close()


def test_an_upload_without_a_length_is_cut_off(page):
    connection = http.client.HTTPConnection(page.url.removeprefix("http://"), timeout=60)

    def body():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
        for _ in range(12):
            yield b"0" * 2**20
        yield b"\r\n--x--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        connection.request("POST", "/gradio_api/upload", body(), headers, encode_chunked=True)
        status = connection.getresponse().status
    except OSError:  # hung up on
        status = 413
    assert status == 413
    connection.close()


PLACES = ("/etc/passwd", "../../../etc/passwd", str(ROOT / "README.md"), "http://127.0.0.1:9/x.mp4")


@pytest.mark.parametrize("place", PLACES)
def test_other_files_and_addresses_cannot_be_read(page, place):
    for route in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/gradio_api/proxy="):
        status, text = fetched(page, "GET", route + place)
        assert status in (403, 404)
        assert "root:" not in text
    answer = joined(page, "gaze", [{"path": place, "meta": {"_type": "gradio.FileData"}}])
    assert not answer["success"]
    assert "root:" not in str(answer)


def test_names_cannot_lead_out_of_the_folder(page):
    name = "../../../../tmp/out-of-the-folder.mp4"
    content = (
        f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        "no video\r\n--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    status, text = fetched(page, "POST", "/gradio_api/upload", content, headers)
    assert status == 200
    (path,) = json.loads(text)
    assert Path(path).resolve().is_relative_to(page.folder)
    assert not Path("/tmp/out-of-the-folder.mp4").exists()
    Path(path).unlink()


def test_pages_may_only_load_their_own(page):
    connection = http.client.HTTPConnection(page.url.removeprefix("http://"), timeout=20)
    connection.request("GET", "/")
    response = connection.getresponse()
    policy = response.getheader("content-security-policy")
    assert "default-src 'self'" in policy
    assert "http" not in policy
    connection.close()


def test_eight_visitors_get_their_own_results(page, tmp_path):
    expected, found = {}, {}

    def visit(number):
        video = make_video(tmp_path / f"video{number}.mp4", 1 + number % 4)
        with connected(page) as client:
            numbers, gaze, *_ = client.predict(
                sent(video), selector="random", ratio=0.02 * (number + 1), api_name="/gaze"
            )
            found[number] = numbers["frames"], sum(numbers["kept"].values()), Path(gaze).name

    threads = [threading.Thread(target=visit, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    for number in range(8):
        frames, cap = 1 + number % 4, int(0.02 * (number + 1) * 265)
        expected[number] = frames, frames * cap, f"video{number}.safetensors"
    assert found == expected


def test_nothing_is_left_and_memory_does_not_grow(page, tmp_path):
    video = make_video(tmp_path / "square.mp4", 1)
    sizes = []
    for number in range(RUNS):
        with connected(page) as client:
            client.predict(sent(video), ratio=0.02 + 0.001 * (number % 5), api_name="/gaze")
        sizes.append(page.memory())
    wait_for(lambda: not page.files(), 60)
    warm = sizes[len(sizes) // 4]
    print(f"{RUNS} runs: {[size >> 20 for size in sizes]} MiB")
    assert sizes[-1] < 1.1 * warm


def test_a_client_cancels(client, page, tmp_path):
    video = make_video(tmp_path / "large.mp4", 100, 960, 540)
    job = client.submit(sent(video), selector="learned", ratio=0.2, api_name="/gaze")
    wait_for(lambda: [one for one in page.files() if one.startswith("job")])
    assert client.predict(api_name="/cancel") == {"cancelled": 1}
    with pytest.raises(Exception, match="cancelled"):
        job.result(timeout=20)


def test_a_question_is_answered_gazed_and_dense(client, tmp_path):
    video = make_video(tmp_path / "clip.mp4", 8, 64, 48, fps=4)
    ask = partial(client.predict, sent(video), api_name="/ask")
    gazed, dense = ask("What moves?", ratio=0.25)
    assert gazed["dense_units"] == dense["dense_units"] == dense["kept_units"]
    assert 0 < gazed["kept_units"] <= 0.25 * dense["kept_units"] + 1
    assert gazed["prompt_tokens"] < dense["prompt_tokens"]
    with pytest.raises(Exception, match="empty"):
        ask("  ")
    with pytest.raises(Exception, match="1,001 characters"):
        ask("x" * 1001)


def fetched(page, method, path, body=None, headers=None):
    """Status and text of a raw request."""
    connection = http.client.HTTPConnection(page.url.removeprefix("http://"), timeout=20)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    text = response.read().decode(errors="replace")
    connection.close()
    return response.status, text


def joined(page, name, data):
    """What the queue answers to data as no client library would send it."""
    config = json.loads(fetched(page, "GET", "/config")[1])
    (function,) = [one["id"] for one in config["dependencies"] if one["api_name"] == name]
    session = uuid.uuid4().hex
    data = [*data, "greedy", 0.1, None, "resize", None, None, None, None, 0, False]
    body = json.dumps({"data": data, "fn_index": function, "session_hash": session})
    fetched(page, "POST", "/gradio_api/queue/join", body, {"Content-Type": "application/json"})
    _, text = fetched(page, "GET", f"/gradio_api/queue/data?session_hash={session}")
    (answer,) = [line for line in text.splitlines() if "process_completed" in line]
    return json.loads(answer.removeprefix("data: "))
