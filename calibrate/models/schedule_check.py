"""Whether a schedule and a model belong together."""

from typing import TYPE_CHECKING

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.models.families import Family


def check_schedule(
    schedule: Schedule, checkpoint: Checkpoint, family: "Family", *, source: str = "the schedule"
) -> None:
    """Raises InputError where a schedule is for another depth or model, or ranks by a score that the model's encoder
    does not have.

    Args:
        source: what messages call the schedule, such as its file.
    """
    if schedule.num_layers != family.num_layers:
        raise InputError(
            f"{source} is for {schedule.num_layers} layers, {checkpoint.path} has {family.num_layers}: calibrate this "
            "model"
        )
    if schedule.config_hash and schedule.config_hash != checkpoint.config_hash:
        raise InputError(
            f"{source} is for model {schedule.model_id or 'unnamed'!r} (config {schedule.config_hash[:12]}), "
            f"{checkpoint.path} is {checkpoint.model_id!r} (config {checkpoint.config_hash[:12]}): calibrate again"
        )
    family.check_scores(schedule)
