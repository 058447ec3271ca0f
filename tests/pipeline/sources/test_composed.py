"""Whether streams were recorded together, as far as their files tell."""

import pytest

from pipeline.sources.composed import composed_notice


@pytest.mark.parametrize(
    "recordings",
    [
        {},
        {"camera": "drive.mp4"},
        {"camera": "drive.mp4", "microphone": "drive.mp4", "telemetry": "./drive.csv"},
        {"camera": "/a/b/../run.mcap", "text": "/a/run.mcap"},
        {"telemetry": "/a/a103l", "text": "/a/a103l.hea"},
    ],
)
def test_files_of_one_name_in_one_folder_are_one_recording(recordings):
    assert composed_notice(recordings) is None


def test_files_of_other_names_or_folders_are_named_with_their_streams_in_one_line():
    said = composed_notice(
        {"camera": "/a/clip.avi", "telemetry": "/b/a103l.hea", "text": "/b/a103l.hea", "microphone": "/a/cough.ogg"}
    )
    assert said == (
        "composed: camera from clip.avi, telemetry and text from a103l, microphone from cough.ogg: "
        "separate recordings, played as if of one place (or patient) and one time"
    )
    assert composed_notice({"camera": "/a/x.mp4", "telemetry": "/b/x.csv"}) is not None
