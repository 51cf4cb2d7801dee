"""A profile against a recording, or against a result of `vllm bench serve`."""

from pytwin.calibrate.check.report import check as check
