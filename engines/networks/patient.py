"""The patient networks: what they read and give. Not a medical device; trained and measured in simulation only."""

from __future__ import annotations

from engines.networks.design import ChannelDesign, MicrophoneDesign, ScenarioDesign, TelemetryDesign, View

PATIENT = ScenarioDesign(
    name="patient",
    frame_hw=(120, 160),
    # ``bed`` (head, chest, arms, where a breath moves a few pixels) loses no resolution
    views={
        "room": View(box=(0.0, 1.0, 0.0, 1.0), size=(60, 80), stages=((32, 2), (64, 2), (64, 1), (64, 1))),
        "bed": View(box=(0.25, 0.6, 0.1, 0.9), size=(42, 128), stages=((32, 2), (32, 1), (64, 2), (64, 1), (64, 1))),
    },
    microphone=MicrophoneDesign(window_ns=4_000_000_000, hop_ns=200_000_000),
    telemetry=TelemetryDesign(
        channels=(
            ChannelDesign(name="ecg_mv", unit="mV", centre=0.0, spread=0.5),
            ChannelDesign(name="pleth", unit="1", centre=0.5, spread=0.3),
            ChannelDesign(name="resp", unit="1", centre=0.0, spread=0.5),
            ChannelDesign(name="spo2_percent", unit="percent", centre=95.0, spread=5.0),
            ChannelDesign(name="heart_rate_bpm", unit="bpm", centre=85.0, spread=30.0),
        ),
        window_ns=10_000_000_000,
        hop_ns=200_000_000,
        step_ns=16_000_000,
        hold_ns=1_500_000_000,
        strides=(2, 3, 4),  # (5, 5) told five of six rhythms apart less well, by 3 to 8 points in a trial on held-out moments
    ),
    heads={
        "alarm": ("no", "true"),
        "apnea": ("breathing", "apnea"),
        "distress": ("calm", "distress"),
        "action": ("none", "check", "respond"),
    },
    memory_entries=6,
    memory_step_ns=600_000_000,
    shared_width=3,  # 4 let a probe tell the streams apart oftener than 40 % of the time, in trials on validation runs
)
