"""The driving networks: what they read and give."""

from __future__ import annotations

from engines.networks.design import ChannelDesign, MicrophoneDesign, ScenarioDesign, TelemetryDesign, View

DRIVING = ScenarioDesign(
    name="driving",
    frame_hw=(192, 320),
    # ``road`` (around the horizon, where what matters is small) and ``mirror`` (the rear-view mirror) lose no resolution
    views={
        "scene": View(box=(0.0, 1.0, 0.0, 1.0), size=(48, 80), stages=((32, 2), (64, 1), (64, 1), (64, 1))),
        "road": View(
            box=(0.296875, 0.630208, 0.25, 0.75),
            size=(64, 160),
            stages=((32, 2), (32, 1), (64, 2), (64, 1), (64, 1), (64, 1)),
        ),
        "mirror": View(box=(0.0, 0.208334, 0.3, 0.7), size=(40, 128), stages=((32, 2), (64, 2), (64, 1), (64, 1))),
    },
    microphone=MicrophoneDesign(window_ns=2_000_000_000, hop_ns=100_000_000),
    telemetry=TelemetryDesign(
        channels=(
            ChannelDesign(name="speed_mps", unit="m/s", centre=10.0, spread=10.0, required=True),
            ChannelDesign(name="accel_forward_mps2", unit="m/s2", centre=0.0, spread=2.0),
            ChannelDesign(name="accel_left_mps2", unit="m/s2", centre=0.0, spread=2.0),
            ChannelDesign(name="accel_up_mps2", unit="m/s2", centre=9.81, spread=2.0),
            ChannelDesign(name="yaw_rate_radps", unit="rad/s", centre=0.0, spread=0.2),
            ChannelDesign(name="steering_rad", unit="rad", centre=0.0, spread=0.2),
            ChannelDesign(name="brake", unit="1", centre=0.0, spread=0.5),
            ChannelDesign(name="throttle", unit="1", centre=0.0, spread=0.5),
        ),
        window_ns=2_000_000_000,
        hop_ns=100_000_000,
        step_ns=50_000_000,
        hold_ns=500_000_000,
        strides=(2,),
    ),
    heads={"emergency": ("none", "approaching"), "collision": ("clear", "imminent"), "action": ("keep", "slow", "yield", "stop")},
    memory_entries=4,
    memory_step_ns=600_000_000,
    shared_width=3,  # as the patient's; 4 did no better in trials on validation runs
)
