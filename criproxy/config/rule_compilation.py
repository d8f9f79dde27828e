"""Compilation of the configuration's rules, with errors that name the line of a key.

The imports inside the functions keep CEL and protobuf out of a process without rules.
"""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from criproxy.config.load import LoadedConfig
from criproxy.rules.errors import RuleError

if TYPE_CHECKING:
    from criproxy.enforce.hooks.hook import Hook
    from criproxy.rules.compiled.ruleset import RuleSet
    from criproxy.rules.spec import RuleSpec


def compiled(loaded: LoadedConfig) -> tuple["RuleSet", dict[str, "Hook"]]:
    """Compile the rules, and create their hooks, by the rule's name.

    Scripts are loaded; webhooks are not contacted. Raises ConfigError.
    """
    from criproxy.rules.compiled.ruleset import compile_rules

    hooks = _hooks(loaded)
    specs = [_with_may_deny(each.spec, hooks) for each in loaded.rules]
    try:
        return compile_rules(specs, loaded.config.rules_mode == "dry-run"), hooks
    except RuleError as error:
        rule = next(each for each in loaded.rules if each.spec.name == error.rule)
        raise rule.error(error.keys, error.message) from error


def _with_may_deny(spec: "RuleSpec", hooks: dict[str, "Hook"]) -> "RuleSpec":
    """Return the rule with ``hook.may_deny`` set from the hook, unless the rule sets it."""
    if spec.hook is None or spec.hook.may_deny is not None:
        return spec
    return replace(spec, hook=replace(spec.hook, may_deny=hooks[spec.name].has_deny))


def _hooks(loaded: LoadedConfig) -> dict[str, "Hook"]:
    from criproxy.enforce.hooks.hook import make_hook

    hooks = {}
    for rule in loaded.rules:
        if rule.spec.hook is not None:
            key = "url" if rule.spec.hook.script is None else "script"
            try:
                hooks[rule.spec.name] = make_hook(rule.spec.hook, loaded.directory)
            except (ValueError, OSError) as error:
                raise rule.error(("hook", key), " ".join(str(error).split())) from error
    return hooks
