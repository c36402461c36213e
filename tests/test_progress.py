import io
import time

from tqdm import tqdm

from fgvc_lib.report import progress
from fgvc_lib.report.progress import ReportBar


def test_the_time_left_goes_by_this_machine_s_pace(monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with ReportBar(100) as bar:
        assert bar.left == 100  # nothing is known of this machine yet
        bar.begin("one", 10)
        now = 20.0
        bar.end()  # it took twice as long as expected
        assert bar.left == 180
        bar.begin("two", 40)
        now = 50.0
        assert bar.left == 150
        now = 500.0  # it should have ended at 100
        assert bar.left == 100 and bar.format_dict["left"] == ", 01:40 left"
        bar.end()
        assert bar.left == 500  # half is done, in 500 seconds
    with ReportBar(100, estimate=False) as bar:
        assert bar.format_dict["left"] == ""


def test_it_is_drawn_anew_by_itself(capsys):
    with ReportBar(10):
        capsys.readouterr()
        time.sleep(2.5)
        assert capsys.readouterr().err.count("gone") == 2


def test_what_a_cell_prints(capsys):
    printed = io.StringIO()
    with tqdm(range(2), "outer", file=printed, mininterval=0) as outer:
        outer.set_postfix(loss="0.31")
        outer.update()
        list(tqdm(range(2), "inner", file=printed, mininterval=0, leave=False))  # below the other: moves the cursor
    with ReportBar(10) as bar:
        bar.say(printed.getvalue())
        assert bar.postfix.startswith("outer:  50% 1/2 [")
        assert "loss=0.31]" in bar.postfix and "|" not in bar.postfix
        capsys.readouterr()
        bar.say("UserWarning: a kernel that is slow\n")
        assert "UserWarning: a kernel that is slow\n" in capsys.readouterr().err
        bar.begin("next", 1)
        assert not bar.postfix
