"""A flow as a graph: as DOT text, as a URL that shows it, as a pydot graph, or in a viewer.

Stages are boxes, nested as they are declared; tasks are nodes, joined to those whose output they
take. With a `Result`, what a task came to is its colour, and what was not selected is dashed.
"""

from __future__ import annotations

import base64
import tempfile
import webbrowser
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ixflow.errors import FlowError
from ixflow.pipeline.result import Result, TaskState

if TYPE_CHECKING:
    from ixflow.pipeline.flow import Flow
    from ixflow.pipeline.stage import Stage
    from ixflow.pipeline.task import Task

__all__ = ["Box", "Graph", "dot_of", "graph_of", "pydot_of", "show", "url_of"]

KROKI = "https://kroki.io"

# The colours that users of pipedag know.
_COLOURS = {
    TaskState.COMPLETED: "#adef9b",
    TaskState.RESUMED: "#adef9b",
    TaskState.CACHE_VALID: "#e8ffc6",
    TaskState.FAILED: "#ff453a",
    TaskState.UNKNOWN: "#ffffff",
}


@dataclass(frozen=True, slots=True)
class Box:
    """A stage: its look, its tasks by the names of their nodes with their looks, what it holds."""

    name: str
    look: Mapping[str, str]
    nodes: Mapping[str, Mapping[str, str]]
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A flow as boxes and the edges between nodes."""

    name: str
    boxes: tuple[Box, ...]
    edges: tuple[tuple[str, str], ...]


_NODE = {"shape": "box", "style": "rounded,filled", "fillcolor": "#ffffff"}
_SKIPPED = {"style": "rounded,dashed", "color": "#909090", "fontcolor": "#909090"}


def graph_of(flow: Flow, result: Result | None = None) -> Graph:
    """Describe a flow, with what its tasks came to if there is a result."""
    names = {task: f"task{number}" for number, task in enumerate(flow.tasks)}
    boxes = tuple(_box(s, names, result) for s in flow.stages.values() if s.outer is None)
    edges = ((names[upstream], names[task]) for task in flow.tasks for upstream in task.upstream)
    return Graph(flow.name, boxes, tuple(edges))


def _box(stage: Stage, names: Mapping[Task, str], result: Result | None) -> Box:
    skipped = result is not None and not any(_selected(task, result) for task in stage.tasks)
    look = {"label": stage.name, "style": "rounded"} | (_SKIPPED if skipped else {})
    nodes = {names[task]: _look(task, result) for task in stage.tasks}
    inner = tuple(_box(inner, names, result) for inner in stage.inner)
    return Box(f"cluster_{stage.name}", look, nodes, inner)


def _look(task: Task, result: Result | None) -> dict[str, str]:
    if result is None:
        return {"label": task.name}
    state = result.task_states.get(task, TaskState.UNKNOWN)
    look = {"label": task.name, "fillcolor": _COLOURS[state], "tooltip": str(state)}
    return look if _selected(task, result) else look | _SKIPPED


def _selected(task: Task, result: Result) -> bool:
    return result.subflow is None or task in result.subflow.selected_tasks


def dot_of(graph: Graph) -> str:
    """Write a graph in Graphviz' DOT language; no Graphviz is needed for it.

    >>> print(dot_of(Graph("empty", (), ())))
    digraph "empty" {
      node [shape="box", style="rounded,filled", fillcolor="#ffffff"];
    }
    """
    lines = [f"digraph {_quoted(graph.name)} {{", f"  node [{_written(_NODE)}];"]
    for box in graph.boxes:
        lines += _lines(box, "  ")
    lines += [f"  {start} -> {end};" for start, end in graph.edges]
    return "\n".join([*lines, "}"])


def _lines(box: Box, indent: str) -> Iterator[str]:
    yield f"{indent}subgraph {_quoted(box.name)} {{"
    yield f"{indent}  graph [{_written(box.look)}];"
    for name, look in box.nodes.items():
        yield f"{indent}  {name} [{_written(look)}];"
    for inner in box.boxes:
        yield from _lines(inner, indent + "  ")
    yield f"{indent}}}"


def _written(look: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={_quoted(value)}" for key, value in look.items())


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def url_of(dot: str, kroki_url: str | None = KROKI) -> str:
    """Give a URL at which a Kroki server draws the graph, whose text is within the URL.

    Nothing is sent before the URL is opened. ``kroki_url`` None means that none may be.

    Raises:
        FlowError: no Kroki server may be used.

    >>> url_of("digraph {}").rpartition("/")[0]
    'https://kroki.io/graphviz/svg'
    """
    if kroki_url is None:
        msg = "the configuration has no kroki_url, so there is no URL; use visualize_pydot()"
        raise FlowError(msg)
    packed = base64.urlsafe_b64encode(zlib.compress(dot.encode(), 9)).decode()
    return f"{kroki_url.rstrip('/')}/graphviz/svg/{packed}"


def pydot_of(graph: Graph) -> Any:
    """Give the graph as a `pydot.Dot`; Graphviz is needed only to draw it.

    Raises:
        FlowError: pydot is not installed.

    """
    try:
        import pydot
    except ImportError as error:
        msg = "a pydot graph needs the package pydot; install ixflow[visualize]"
        raise FlowError(msg) from error
    made = pydot.Dot(_quoted(graph.name), graph_type="digraph")
    made.set_node_defaults(**_quoted_look(_NODE))
    for box in graph.boxes:
        made.add_subgraph(_subgraph(pydot, box))
    for start, end in graph.edges:
        made.add_edge(pydot.Edge(start, end))
    return made


def _subgraph(pydot: Any, box: Box) -> Any:
    made = pydot.Subgraph(_quoted(box.name), **_quoted_look(box.look))
    for name, look in box.nodes.items():
        made.add_node(pydot.Node(name, **_quoted_look(look)))
    for inner in box.boxes:
        made.add_subgraph(_subgraph(pydot, inner))
    return made


def _quoted_look(look: Mapping[str, str]) -> dict[str, str]:
    return {key: _quoted(value) for key, value in look.items()}


def show(graph: Graph) -> Any:
    """Show the graph: in a notebook as its cell's result, elsewhere as a PDF in a viewer.

    Raises:
        FlowError: pydot or Graphviz is not installed.

    """
    drawn = pydot_of(graph)
    try:
        from IPython import get_ipython
    except ImportError:
        in_notebook = False
    else:
        in_notebook = get_ipython() is not None
    try:
        if in_notebook:
            from IPython.display import SVG

            return SVG(drawn.create_svg())
        place = Path(tempfile.mkdtemp(prefix="ixflow-")) / "flow.pdf"
        drawn.write_pdf(str(place))
    except FileNotFoundError as error:
        msg = "drawing a graph needs Graphviz, whose `dot` is not installed; use visualize_url()"
        raise FlowError(msg) from error
    webbrowser.open(place.as_uri())
    return None
