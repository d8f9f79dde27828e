"""From rules that have been read to rules that can be asked. Errors name the line of the very key.

What is imported within is what rules cost in memory, and is not paid for without any.
"""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from criproxy.config.load import Loaded
from criproxy.rules.errors import RuleError

if TYPE_CHECKING:
    from criproxy.enforce.hooks.hook import Hook
    from criproxy.rules.compiled.ruleset import RuleSet
    from criproxy.rules.spec import RuleSpec


def compiled(loaded: Loaded) -> tuple["RuleSet", dict[str, "Hook"]]:
    """Compile the rules against the messages of the CRI, and make their hooks, by rule.

    Scripts are loaded; webhooks are not asked. Raises ConfigError.
    """
    from criproxy.rules.compiled.ruleset import compile_rules

    hooks = _hooks(loaded)
    specs = [_settled(each.spec, hooks) for each in loaded.rules]
    try:
        return compile_rules(specs, loaded.config.rules_mode == "dry-run"), hooks
    except RuleError as error:
        rule = next(each for each in loaded.rules if each.spec.name == error.rule)
        raise rule.error(error.keys, error.message) from error


def _settled(spec: "RuleSpec", hooks: dict[str, "Hook"]) -> "RuleSpec":
    """Have the rule say whether its hook may refuse calls, if it does not."""
    if spec.hook is None or spec.hook.may_deny is not None:
        return spec
    return replace(spec, hook=replace(spec.hook, may_deny=hooks[spec.name].has_deny))


def _hooks(loaded: Loaded) -> dict[str, "Hook"]:
    from criproxy.enforce.hooks.factory import make_hook

    made = {}
    for rule in loaded.rules:
        if rule.spec.hook is not None:
            key = "url" if rule.spec.hook.script is None else "script"
            try:
                made[rule.spec.name] = make_hook(rule.spec.hook, loaded.directory)
            except (ValueError, OSError) as error:
                raise rule.error(("hook", key), " ".join(str(error).split())) from error
    return made
