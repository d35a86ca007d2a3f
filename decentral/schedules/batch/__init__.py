"""Batch-size schedules: functions ``(progress) -> samples per node`` of the step that follows."""
