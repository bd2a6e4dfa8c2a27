"""Training algorithms of selectors: pure functions from scored rollouts to one loss per row.

`NTP`, `GRPO` and `Dummy` are classes with the published interface (`algorithms.rollout`).
"""

from autogaze.algorithms.dummy import Dummy
from autogaze.algorithms.grpo import GRPO
from autogaze.algorithms.ntp import NTP

__all__ = ["GRPO", "NTP", "Dummy"]
