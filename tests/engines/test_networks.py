"""Networks and export, against numpy and against each other. Needs the `train` extra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is not installed (extra `train`)")
onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra `train`)")

from engines import export  # noqa: E402
from engines.manifest import EngineError, Training  # noqa: E402
from engines.networks import camera, microphone, telemetry, text  # noqa: E402
from engines.networks.design import SAMPLE_RATE_HZ  # noqa: E402
from engines.networks.driving import DRIVING  # noqa: E402
from engines.networks.variant import Flat  # noqa: E402
from engines.networks.variants import VARIANTS  # noqa: E402
from engines.registry import open_engine  # noqa: E402

NETWORKS = {
    "camera": lambda: camera.CameraEncoder(DRIVING.views),
    "microphone": lambda: microphone.MicrophoneEncoder(SAMPLES),
    "telemetry": lambda: telemetry.TelemetryEncoder(DRIVING.telemetry),
    "text": text.TextEncoder,
    "fusion": lambda: Flat(VARIANTS["bottleneck"](DRIVING.layout, None)),
}
SAMPLES = DRIVING.microphone.samples
FRAMES = microphone.log_mel_frames(SAMPLES)


def bilinear(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Half-pixel bilinear resizing, written out."""

    def axis(size: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        at = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, size - 1), at - low

    top, bottom, v = axis(image.shape[0], height)
    left, right, u = axis(image.shape[1], width)
    u, v = u[None, :, None], v[:, None, None]
    source = image.astype(np.float64)
    upper = source[top][:, left] * (1 - u) + source[top][:, right] * u
    lower = source[bottom][:, left] * (1 - u) + source[bottom][:, right] * u
    return upper * (1 - v) + lower * v


@pytest.mark.parametrize("size", [(192, 320), (480, 848), (97, 131)])
def test_the_camera_graph_cuts_and_resizes_as_numpy_does(size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    session = export.session_from_model(export.camera_preprocessing(DRIVING.views))
    views = session.run(list(DRIVING.views), {"frame_hwc": frame})
    for view, spec in zip(views, DRIVING.views.values(), strict=True):
        top, bottom, left, right = (int(np.floor(s * n + 0.5)) for s, n in zip(spec.box, np.repeat(size, 2), strict=True))
        wanted = bilinear(frame[top:bottom, left:right], *spec.size)
        assert np.abs(view[0].astype(float) - wanted).max() <= 1.5  # the uint8 path rounds its weights


def test_the_mirror_and_the_road_are_cut_from_a_simulated_frame_without_loss() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (192, 320, 3)).astype(np.uint8)
    views = export.session_from_model(export.camera_preprocessing(DRIVING.views)).run(["road", "mirror"], {"frame_hwc": frame})
    assert np.array_equal(views[0][0], frame[57:121, 80:240])
    assert np.array_equal(views[1][0], frame[0:40, 96:224])


def test_log_mel_by_matrix_products_is_log_mel_by_fourier_transform() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(SAMPLES) / SAMPLE_RATE_HZ
    pcm = (9000 * np.sin(2 * np.pi * 900 * time) + rng.normal(0, 300, time.size)).astype(np.int16)
    window = np.hanning(microphone.FRAME + 1)[:-1]
    starts = np.arange(FRAMES) * microphone.FRAME_HOP
    frames = np.stack([pcm[s : s + microphone.FRAME] for s in starts]) / 32768 * window
    power = np.abs(np.fft.rfft(frames)[:, 1 : microphone.BINS + 1] * 2 / window.sum()) ** 2
    wanted = np.log(power @ microphone.mel_matrix().T + microphone.FLOOR).T
    with torch.inference_mode():
        found = microphone.LogMel()(torch.from_numpy(pcm)[None])[0].numpy()
    assert found.shape == (microphone.MELS, FRAMES)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_a_tone_lands_in_the_mel_band_around_it() -> None:
    time = np.arange(SAMPLES) / SAMPLE_RATE_HZ
    hz = np.arange(1, microphone.BINS + 1) * SAMPLE_RATE_HZ / microphone.FRAME
    for tone_hz in (200, 900, 3000):
        pcm = torch.from_numpy((8000 * np.sin(2 * np.pi * tone_hz * time)).astype(np.int16))[None]
        band = int(microphone.LogMel()(pcm)[0].mean(1).argmax())
        mel = microphone.mel_matrix()[band]
        assert hz[mel > 0].min() - 40 <= tone_hz <= hz[mel > 0].max() + 40


def test_every_mel_band_hears_something() -> None:
    assert (microphone.mel_matrix().sum(axis=1) > 0).all()


@pytest.mark.parametrize("role", list(NETWORKS))
def test_an_exported_engine_computes_what_torch_does_and_opens(role: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = NETWORKS[role]()
    # parity is checked by the export itself, before anything is written
    path = export.export_engine(role, network, DRIVING, tmp_path, Training(trained=False))
    with open_engine(path) as runner:
        assert all(np.isfinite(o).all() for o in runner.infer(export.example_inputs(role, DRIVING)).values())


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    network = telemetry.TelemetryEncoder(DRIVING.telemetry)
    first = export.export_engine("telemetry", network, DRIVING, tmp_path / "a", Training(trained=False))
    second = export.export_engine("telemetry", network, DRIVING, tmp_path / "b", Training(trained=False))
    assert first.read_bytes() == second.read_bytes()


def test_a_graph_that_differs_from_torch_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    foreign = export.graph_from_network("text", text.TextEncoder().eval(), DRIVING)
    monkeypatch.setattr(export, "graph_from_network", lambda *_: foreign)
    with pytest.raises(EngineError, match=r"text\.onnx: differs from torch"):
        export.export_engine("text", text.TextEncoder(), DRIVING, tmp_path, Training(trained=False))
    assert not list(tmp_path.iterdir())


def test_invalid_telemetry_has_no_influence() -> None:
    network = telemetry.TelemetryEncoder(DRIVING.telemetry).eval()
    values = torch.randn(1, DRIVING.telemetry.points, len(DRIVING.telemetry.channels))
    valid = torch.ones_like(values)
    valid[:, :, 5] = 0
    other = values.clone()
    other[:, :, 5] = 1e6
    with torch.inference_mode():
        assert torch.equal(network(values, valid), network(other, valid))
