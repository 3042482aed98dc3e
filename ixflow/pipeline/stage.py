"""`Stage`: tasks whose tables are published together."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from ixflow.errors import DuplicateNameError, StageError
from ixflow.pipeline.containers import checked_label, normalised
from ixflow.pipeline.context import Declaration, declaration, running
from ixflow.store.options import checked_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ixflow.pipeline.audit import Audit
    from ixflow.pipeline.config import ConfigContext
    from ixflow.pipeline.flow import Flow
    from ixflow.pipeline.pipedag_config import PipedagConfig
    from ixflow.pipeline.task import Task
    from ixflow.store.diff import StageDiff
    from ixflow.store.versions import Rollback, StageVersion

__all__ = ["Stage"]


class Stage:
    """A group of tasks, and the schema where their tables appear together.

    Used as a context manager within a flow; what is called in the block belongs to it. A stage
    within a stage is published first, and reads the outer one's tables before these are published.
    ``materialization_details`` is the label of a set of the table store's options, for tables that
    name no other. ``keep_versions`` is how many of the versions before it a publication keeps, to
    go back to; None: as the table store says, which by default keeps none.

    Raises:
        StageError: the name is empty, or the stage is entered outside a flow or twice.
        DuplicateNameError: the flow has a stage of this name.

    >>> Stage("Raw/Data").name
    'raw_data'
    """

    def __init__(
        self,
        name: str,
        materialization_details: str | None = None,
        *,
        keep_versions: int | None = None,
    ) -> None:
        self._name = normalised(name)
        if not self._name:
            msg = f"Stage({name!r}): a name needs a character"
            raise StageError(msg, stage=name)
        label = checked_label(f"Stage {self._name}", materialization_details)
        self.materialization_details = label
        if keep_versions is not None:
            checked_count(f"Stage {self._name}", keep_versions)
        self.keep_versions = keep_versions
        self.tasks: list[Task] = []
        self.audits: list[Audit] = []
        self.outer: Stage | None = None
        self.inner: list[Stage] = []
        self.flow: Flow | None = None

    @property
    def name(self) -> str:
        """The name as it is compared: case-folded, stripped, ``/`` replaced by ``_``."""
        return self._name

    @property
    def transaction_name(self) -> str:
        """The schema that the current run writes to, as the database knows it.

        Raises:
            StageError: no flow is running.

        """
        return running(self).transaction_schema(self)

    @property
    def current_name(self) -> str:
        """The schema where the current run finds the stage's tables.

        That is the published one once the run has committed the stage, or if it does not run it.

        Raises:
            StageError: no flow is running.

        """
        return running(self).current_schema(self)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The tables that the stage's tasks are known to make, in the order of the tasks."""
        return tuple(name for task in self.tasks for name in task.output_names)

    def add(self, task: Task) -> None:
        """Take in a task that was called in this stage's block."""
        self.tasks.append(task)

    def within(self, other: Stage) -> bool:
        """Say whether this stage is nested in the other, at any depth."""
        stage = self.outer
        while stage is not None and stage != other:
            stage = stage.outer
        return stage is not None

    def subtree(self) -> list[Stage]:
        """List the stage and all that are nested in it, outermost first."""
        return [self, *(stage for inner in self.inner for stage in inner.subtree())]

    def __getitem__(self, item: str | tuple[str, int]) -> Task:
        """Find a task: ``stage["name"]``, or ``stage["name", 1]`` for the second of its name.

        Raises:
            KeyError: there is no such task.
            ValueError: there are several, and no index says which.
            IndexError: there are fewer.

        """
        name, index = item if isinstance(item, tuple) else (item, None)
        found = [task for task in self.tasks if task.name == name]
        if not found:
            names = ", ".join(dict.fromkeys(task.name for task in self.tasks)) or "none"
            msg = f"stage {self.name} has no task {name!r}; it has {names}"
            raise KeyError(msg)
        if index is not None:
            if not -len(found) <= index < len(found):
                msg = f"stage {self.name} has {len(found)} tasks {name!r}, no index {index}"
                raise IndexError(msg)
            return found[index]
        if len(found) > 1:
            msg = f"stage {self.name} has {len(found)} tasks {name!r}; say which: stage[name, 0]"
            raise ValueError(msg)
        return found[0]

    def get_task(self, name: str, index: int | None = None) -> Task:
        """Find a task; the same as ``stage[name]`` or ``stage[name, index]``."""
        return self[name] if index is None else self[name, index]

    # -- versions -------------------------------------------------------------------------------

    def versions(
        self, *, config: ConfigContext | PipedagConfig | None = None
    ) -> tuple[StageVersion, ...]:
        """List the stage's versions, newest first: the published one, and those that are kept.

        ``config`` is what it is for `Flow.run`.

        >>> [one.version for one in stage.versions(config=config)]  # doctest: +SKIP
        [3, 2, 1]
        """
        from ixflow.pipeline.versions import versions

        return versions(self, config)

    def rollback(
        self, version: int | None = None, *, config: ConfigContext | PipedagConfig | None = None
    ) -> Rollback:
        """Publish the tables and results of a kept version again, in one transaction.

        Without a ``version`` it is the one before the published one. It becomes a new version, and
        what was published is kept, so that another rollback undoes this one. Afterwards a task is
        valid if what it would make is what the old version has: so the next run of an unchanged
        flow makes the newer tables again, and so do stages that read this one.

        Raises:
            StageError: the version is not kept, or a table of it is gone.
            ReplacementRefused, LockNotAvailable: as for a publication; nothing has changed.

        >>> stage.rollback(config=config).restored  # doctest: +SKIP
        2
        """
        from ixflow.pipeline.versions import rollback

        return rollback(self, version, config)

    def diff(
        self,
        version: int | None = None,
        *,
        config: ConfigContext | PipedagConfig | None = None,
        transaction_id: str | None = None,
        keys: Mapping[str, Sequence[str]] | None = None,
        rows: bool = True,
        sample: int = 0,
    ) -> StageDiff:
        """Say what has changed since a kept version, or what a transaction would change.

        Without a ``version`` it compares what is published with what a run has written and not
        published: one that failed, was refused by an audit or ran tasks only (the newest, or the
        one of ``transaction_id``). Rows are told apart by the tables' primary keys, or by ``keys``
        (columns by table). ``rows=False`` leaves them uncounted, ``sample`` is how many changed
        rows of each table are shown. A publication of the stage waits meanwhile.

        Raises:
            StageError: there is no such version or transaction.
            ValidationError: several rows have one key.

        >>> print(stage.diff(2, config=config))  # doctest: +SKIP
        stage staging, version 2 to version 3 (published):
          orders changed, 200000 to 200100 rows; 100 rows added
        """
        from ixflow.pipeline.versions import diff
        from ixflow.store.diff import Question

        asked = Question(keys or {}, rows, sample)
        return diff(self, version, config, transaction_id=transaction_id, asked=asked)

    def __enter__(self) -> Self:
        """Open the block."""
        declared = declaration.get()
        if declared is None:
            msg = f"stage {self.name} must be opened within a flow: with Flow(...), then with Stage"
            raise StageError(msg, stage=self.name)
        if self.flow is not None:
            msg = f"stage {self.name} was opened before; a stage is declared in one block"
            raise StageError(msg, stage=self.name)
        if self.name in declared.flow.stages:
            msg = f"flow {declared.flow.name} has two stages called {self.name}; rename one"
            raise DuplicateNameError(msg, stage=self.name)
        self.flow = declared.flow
        self.outer = declared.stage
        if self.outer is not None:
            self.outer.inner.append(self)
        declared.flow.stages[self.name] = self
        declaration.set(Declaration(declared.flow, self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the block."""
        del kind, error, trace
        if self.flow is not None:
            declaration.set(Declaration(self.flow, self.outer))

    def __eq__(self, other: object) -> bool:
        """Compare by name."""
        return isinstance(other, Stage) and other.name == self.name

    def __hash__(self) -> int:
        """Hash the name."""
        return hash(("stage", self.name))

    def __lt__(self, other: Stage) -> bool:
        """Order by name."""
        return self.name < other.name

    def __repr__(self) -> str:
        """Show the name."""
        return f"<Stage {self.name}>"
