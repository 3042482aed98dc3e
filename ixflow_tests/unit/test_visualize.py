"""A flow as a graph: what the DOT text says, and what reads it."""

from __future__ import annotations

import base64
import zlib

import pydot
import pytest

from ixflow.errors import FlowError, TaskError
from ixflow.pipeline import Flow, Stage, create_basic_pipedag_config, materialize
from ixflow.pipeline.visualize import dot_of, graph_of, url_of


@materialize(version="1")
def one():
    return 1


@materialize(version="1")
def two(_):
    raise ZeroDivisionError


@pytest.fixture
def flow():
    with Flow('odd "name"') as made:
        with Stage("outer"):
            first = one()
            with Stage("inner"):
                two(first)
        with Stage("last"):
            one()
    return made


def clusters(graph):
    """Map each cluster to the labels of the nodes directly in it."""
    found = {}
    for part in graph.get_subgraphs():
        labels = [node.get("label") for node in part.get_nodes() if node.get("label")]
        found[part.get_name().strip('"')] = [label.strip('"') for label in labels]
        found |= clusters(part)
    return found


def test_stages_are_nested_boxes_and_tasks_their_nodes(flow):
    graph = flow.visualize_pydot()
    assert clusters(graph) == {
        "cluster_outer": ["one"],
        "cluster_inner": ["two"],
        "cluster_last": ["one"],
    }
    assert [(edge.get_source(), edge.get_destination()) for edge in graph.get_edges()] == [
        ("task0", "task1")
    ]


def test_states_are_colours_and_what_was_not_selected_is_dashed(flow, tmp_path):
    with create_basic_pipedag_config(f"duckdb:///{tmp_path}/w.duckdb") as config:
        result = flow.run(flow["outer"], config=config, fail_fast=False)
    assert isinstance(result.exception, TaskError)
    nodes = {}
    for line in dot_of(graph_of(flow, result)).splitlines():
        name, _, look = line.strip().partition(" [")
        nodes[name] = look
    assert "#adef9b" in nodes["task0"]
    assert "#ff453a" in nodes["task1"]
    assert "dashed" in nodes["task2"]
    assert "dashed" not in nodes["task0"]
    assert result.visualize_pydot().to_string() == flow.visualize_pydot(result).to_string()


def test_a_url_holds_the_whole_graph(flow, tmp_path):
    with create_basic_pipedag_config(f"duckdb:///{tmp_path}/w.duckdb", kroki_url="http://k/"):
        url = flow.visualize_url()
    assert url.startswith("http://k/graphviz/svg/")
    packed = base64.urlsafe_b64decode(url.rpartition("/")[2])
    assert zlib.decompress(packed).decode() == dot_of(graph_of(flow))


def test_without_a_server_there_is_no_url():
    with pytest.raises(FlowError, match="has no kroki_url"):
        url_of("digraph {}", None)


def test_drawing_without_graphviz_says_what_is_missing(flow, monkeypatch):
    monkeypatch.setattr(pydot.Dot, "write_pdf", _no_graphviz)
    with pytest.raises(FlowError, match="drawing a graph needs Graphviz"):
        flow.visualize()


def _no_graphviz(*_):
    raise FileNotFoundError(2, '"dot" not found in path.')


def test_names_are_quoted(flow):
    assert dot_of(graph_of(flow)).startswith('digraph "odd \\"name\\"" {')
    assert 'digraph "odd \\"name\\"" {' in flow.visualize_pydot().to_string()
