"""Variables: what `${...}` may name, and putting values in its place."""

from __future__ import annotations

import graphlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.audit.fields import text_of
from harness.audit.matrix import canonical, canonical_text
from harness.audit.problems import PipelineProblem, guess, nearest, show
from harness.audit.yaml_source import Node, number_or_text, plain

MAX_TEXT = 64 * 1024
MAX_EXPANDED = 64 * 1024 * 1024
"""Characters of all values of a file with every combination and reference filled in."""
MAX_PROBLEMS = 200
"""References of a file that are looked up in vain."""
_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}\n]*)\}|\$\{")
_STAGE = re.compile(r"stages\.([\w-]+)(?:\[([^\]]*)\])?\.(?:outputs\.)?([\w-]+)\Z", re.ASCII)
_ENV = re.compile(r"env\.(\w+)(?::-(.*))?\Z", re.ASCII)


class Unresolved(Exception):
    """A reference that has no value; the message is the problem's."""


@dataclass(frozen=True, slots=True)
class Produced:
    """An expanded stage and its outputs, for the stages after it.

    Args:
        matrix: Its own combination, empty without a matrix.
        outputs: Absolute path by output name.
    """

    matrix: dict[str, Node]
    outputs: dict[str, str]


@dataclass(frozen=True, slots=True)
class ReferenceScope:
    """Everything a reference can name at one place of the file.

    Args:
        constants: `run_dir`, `pipeline_dir` and the like.
        env: The environment seen by `${env.NAME}`.
        variables: Resolved `vars`.
        matrix: Values of the stage's combination.
        produced: Earlier stages, in order: the runs of each by its name in the file.
        stages: Names of all stages, in order; None where stages cannot be named.
        stage: Name of the stage itself.
        own: Its `inputs` and `outputs` as absolute paths; None where they cannot be named.
        size: Characters filled in so far, shared by all scopes of a file.
    """

    constants: Mapping[str, str]
    env: Mapping[str, str]
    variables: Mapping[str, Node] = field(default_factory=dict)
    matrix: Mapping[str, Node] = field(default_factory=dict)
    produced: Mapping[str, Sequence[Produced]] = field(default_factory=dict)
    stages: Sequence[str] | None = None
    stage: str = ""
    own: Mapping[str, dict[str, str]] | None = None
    size: Counter[str] = field(default_factory=Counter)

    def names(self) -> list[str]:
        """All that could be written here, for the nearest guess."""
        found = [*self.constants, *(f"vars.{name}" for name in self.variables)]
        found += [f"matrix.{name}" for name in self.matrix]
        for kind, paths in (self.own or {}).items():
            found += [f"{kind}.{name}" for name in (*paths, *(("out",) if paths else ()))]
        for stage, runs in self.produced.items():
            found += [f"stages.{stage}.{name}" for name in ("out", *runs[0].outputs)]
        return list(dict.fromkeys(found))

    def is_full(self) -> bool:
        """Whether more was filled in than may be."""
        return self.size["characters"] > MAX_EXPANDED

    def lookup(self, name: str) -> list[Node | str]:
        """The values a reference stands for: one, or several for `stages.NAME[*]`.

        Raises:
            Unresolved: It stands for nothing.
        """
        root, _, rest = name.partition(".")
        if name in self.constants:
            return [self.constants[name]]
        if root == "env":
            return [self._environment(name)]
        table = {"vars": self.variables, "matrix": self.matrix}.get(root)
        if table is not None and rest in table:
            return [table[rest]]
        if root in ("inputs", "outputs") and rest:
            if self.own is None:
                raise Unresolved(f"'${{{name}}}' can be used in 'command' and 'env' of a stage only.")
            return [_pick(self.own[root], rest, f"this stage's {root}", f"${{{name}}}")]
        if root == "stages":
            return list(self._outputs(name))
        raise Unresolved(self._unknown(name))

    def _environment(self, name: str) -> str:
        match = _ENV.match(name)
        if match and match[1] in self.env:
            return self.env[match[1]]
        if match and match[2] is not None:
            return match[2]
        near = nearest(name[4:], self.env) if match else None
        hint = f" Did you mean '${{env.{near}}}'?" if near else ""
        raise Unresolved(
            f"'${{{name}}}': there is no such environment variable. Set it, or give a default as in "
            f"'${{env.NAME:-default}}'.{hint}"
        )

    def _unknown(self, name: str) -> str:
        root, _, rest = name.partition(".")
        table = {"vars": self.variables, "matrix": self.matrix}.get(root)
        near = guess(rest, table, f"${{{{{root}.{{}}}}}}") if table else guess(name, self.names(), "${{{}}}")
        if not near and re.fullmatch(r"\w+", name):
            near = (
                f" For the shell's own write ${name} or $${{{name}}}, for the environment's ${{env.{name}}}."
            )
        return f"'${{{name}}}' is not a variable. Known: {', '.join(self.names()[:12])}.{near}"

    def _outputs(self, name: str) -> list[str]:
        match = _STAGE.match(name)
        if match is None:
            raise Unresolved(
                f"'${{{name}}}' names no output. Write '${{stages.NAME.out}}' or '${{stages.NAME.OUTPUT}}'."
            )
        stage, chosen, output = match.groups()
        if self.stages is None:
            raise Unresolved(f"'${{{name}}}': outputs of stages can be used inside stages only.")
        if stage == self.stage and chosen is None:
            if self.own is None:
                raise Unresolved(
                    f"'${{{name}}}' is an output of this stage; use it in 'command' or 'env' only."
                )
            return [_pick(self.own["outputs"], output, "this stage's outputs", f"${{{name}}}")]
        found = self.produced.get(stage, ())
        if not found and stage in self.stages:
            raise Unresolved(
                f"'${{{name}}}': stage '{stage}' comes later. A stage can use outputs of earlier stages "
                f"only: move '{stage}' above '{self.stage}'."
            )
        if not found:
            near = guess(stage, self.produced, f"${{{{stages.{{}}.{output}}}}}")
            listed = ", ".join(self.produced) or "none"
            raise Unresolved(f"'${{{name}}}': there is no stage '{stage}'. Earlier stages: {listed}.{near}")
        found = self._instances(name, stage, chosen, found)
        owner = f"the outputs of stage '{stage}'"
        return [_pick(one.outputs, output, owner, f"${{{name}}}") for one in found]

    def _instances(
        self, name: str, stage: str, chosen: str | None, found: Sequence[Produced]
    ) -> Sequence[Produced]:
        axes = list(found[0].matrix)
        if chosen == "*":
            return found
        if chosen is not None:
            wanted = dict(part.partition("=")[::2] for part in chosen.replace(" ", "").split(",") if part)
            for axis in wanted:
                if axis not in axes:
                    known = ", ".join(axes) or "none, it has no matrix"
                    raise Unresolved(f"'${{{name}}}': '{axis}' is no axis of stage '{stage}'. Axes: {known}.")
            wanted = {axis: canonical_text(text) for axis, text in wanted.items()}
        else:
            wanted = {axis: canonical(self.matrix[axis]) for axis in axes if axis in self.matrix}
        agreeing = [
            one for one in found if all(canonical(one.matrix[axis]) == text for axis, text in wanted.items())
        ]
        if len(agreeing) != 1:
            example = ",".join(f"{axis}={text_of(plain(value))}" for axis, value in found[0].matrix.items())
            raise Unresolved(
                f"'${{{name}}}' means {len(agreeing)} of the {len(found)} runs of matrix stage '{stage}', "
                f"not one. Give this stage the same matrix axes ({', '.join(axes)}), choose one as in "
                f"'${{stages.{stage}[{example}].out}}', or list all with '${{stages.{stage}[*].out}}'."
            )
        return agreeing


def substitute(node: Node, scope: ReferenceScope, path: str, problems: list[PipelineProblem]) -> Node:
    """Put values in place of all references below a node; what cannot be resolved is added to `problems`."""
    value = node.value
    if isinstance(value, str):
        found = _scalar(node, scope, path, problems)
        return found[0] if len(found) == 1 else replace(node, value=tuple(found))
    if isinstance(value, tuple):
        items: list[Node] = []
        for index, item in enumerate(value):
            inner = f"{path}[{index}]"
            is_text = isinstance(item.value, str)
            items += (
                _scalar(item, scope, inner, problems)
                if is_text
                else [substitute(item, scope, inner, problems)]
            )
        return replace(node, value=tuple(items))
    if isinstance(value, dict):
        changed = {key: substitute(child, scope, f"{path}.{key}", problems) for key, child in value.items()}
        return replace(node, value=changed)
    return node


def resolve_variables(
    nodes: Mapping[str, Node], scope: ReferenceScope, problems: list[PipelineProblem]
) -> dict[str, Node]:
    """Resolve `vars`, which may use each other in any order but not in a circle."""
    uses = {name: [used for used in _vars_in(node) if used in nodes] for name, node in nodes.items()}
    try:
        order = list(graphlib.TopologicalSorter(uses).static_order())
    except graphlib.CycleError as error:
        circle = error.args[1]
        first = nodes[circle[0]]
        names = " <- ".join(circle[:10])
        message = f"these variables need each other: {names}. Give one of them a value of its own."
        problems.append(PipelineProblem(first.mark, f"vars.{circle[0]}", message))
        return dict(nodes)
    done: dict[str, Node] = {}
    for name in order:
        done[name] = substitute(nodes[name], replace(scope, variables=done), f"vars.{name}", problems)
    return done


def _vars_in(node: Node) -> list[str]:
    if not isinstance(node.value, str):
        return []
    return [name[5:] for name in _REFERENCE.findall(node.value) if name.startswith("vars.")]


def _scalar(node: Node, scope: ReferenceScope, path: str, problems: list[PipelineProblem]) -> list[Node]:
    """The node with its references filled in: several nodes only for a text that is one `[*]` reference."""
    if scope.is_full():
        return [node]
    filled = _filled(node, scope, path, problems)
    scope.size["characters"] += sum(len(one.text) for one in filled)
    if scope.is_full():
        message = (
            f"with this the file grows to more than {MAX_EXPANDED} characters, once every combination and "
            "variable is filled in. Split it, or keep long texts in files of their own."
        )
        problems.append(PipelineProblem(node.mark, path, message))
    return filled


def _filled(node: Node, scope: ReferenceScope, path: str, problems: list[PipelineProblem]) -> list[Node]:
    text: str = node.value
    pieces: list[str] = []
    end, position = 0, -1
    for match in _REFERENCE.finditer(text):
        if len(problems) >= MAX_PROBLEMS:
            break  # each costs a search for the nearest name, and nobody reads them all
        pieces.append(text[end : match.start()])
        end, position = match.end(), node.raw.find("${", position + 1)
        if match[0] == "$${":
            pieces.append("${")
            continue
        try:
            if match[1] is None:
                raise Unresolved("'${' is not closed by '}'. Write '$${' if the text '${' is meant.")
            values = scope.lookup(match[1].strip())
        except Unresolved as error:
            problems.append(PipelineProblem(node.mark_inside(position), path, str(error)))
            continue
        if match[0] == text:
            return [_placed(value, node) for value in values]
        pieces.append(" ".join(_text(value) for value in values))
    if not end:
        return [node]
    result = "".join([*pieces, text[end:]])
    if len(result) > MAX_TEXT:
        message = f"grows to {len(result)} characters; at most {MAX_TEXT} are allowed."
        problems.append(PipelineProblem(node.mark, path, message))
        result = result[:MAX_TEXT]
    return [replace(node, value=result, text=result)]


def _placed(value: Node | str, at: Node) -> Node:
    if isinstance(value, Node):
        return replace(at, value=value.value, text=_text(value), raw=at.raw)
    return replace(at, value=number_or_text(value), text=value)


def _text(value: Node | str) -> str:
    return value if isinstance(value, str) else text_of(plain(value))


def _pick(paths: Mapping[str, str], name: str, owner: str, reference: str) -> str:
    if name in paths:
        return paths[name]
    if name == "out" and len(paths) == 1:
        return next(iter(paths.values()))
    if not paths:
        raise Unresolved(f"'{reference}': {owner} are none; declare one first.")
    known = ", ".join(paths)
    if name == "out":
        raise Unresolved(f"'{reference}': {owner} are {len(paths)}, none called 'out'. Name one of: {known}.")
    raise Unresolved(f"'{reference}': {owner} have no {show(name)}. Known: {known}.{guess(name, paths)}")
