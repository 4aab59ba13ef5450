"""Which worker gets which partitions: as Faust says, but evenly.

Faust's own assignor (0.15.3) lets each member keep up to ceil(partitions / members) where standbys are named:
two workers with two partitions each keep them, and a third that joins gets none.
"""

import faust.assignor.partition_assignor as stock
from faust.assignor.client_assignment import CopartitionedAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor


class EvenAssignor(CopartitionedAssignor):
    """No member has two partitions more than another.

    Of P partitions and M members, P mod M members have ceil(P / M), the others floor(P / M).  Within that a
    member keeps what it had, so no more sessions move than must; the standbys are chosen as Faust does.
    """

    def get_assignment(self) -> dict[str, CopartitionedAssignment]:
        """What each member owns and stands by for, by its id."""
        members = dict(self._client_assignments)
        most_first = sorted(members.values(), key=lambda member: -member.num_assigned(active=True))
        for place, member in enumerate(most_first):
            may_keep = self.max_capacity if place < self._larger_shares else self.min_capacity
            for partition in sorted(member.actives)[may_keep:]:
                member.unassign_partition(partition, active=True)
            member.unassign_extras(self.max_capacity, self.replicas)
        self._assign(active=True)
        self._assign(active=False)
        return members

    @property
    def _larger_shares(self) -> int:
        """How many members have ceil(P / M)."""
        return int(self.num_partitions - self.min_capacity * self._num_clients)

    def _client_exhausted(
        self,
        member: CopartitionedAssignment,
        active: bool,
        client_limit: int | None = None,
    ) -> bool:
        if not active:
            return bool(super()._client_exhausted(member, active, client_limit))
        owned = member.num_assigned(active=True)
        if owned < self.min_capacity:
            return False
        larger = sum(
            each.num_assigned(active=True) > self.min_capacity
            for each in self._client_assignments.values()
        )
        return bool(owned > self.min_capacity or larger >= self._larger_shares)


def assign_evenly() -> None:
    """From now on Faust's groups are divided by `EvenAssignor`; there is no option for it."""
    stock.CopartitionedAssignor = EvenAssignor
