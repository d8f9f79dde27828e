"""From rules that have been read to rules that can be asked. Errors name the line of the very key.

What is imported within is what rules cost in memory, and is not paid for without any.
"""

from typing import TYPE_CHECKING

from criproxy.config.load import Loaded
from criproxy.rules.errors import RuleError

if TYPE_CHECKING:
    from criproxy.enforce.hooks import Hook
    from criproxy.rules.ruleset import RuleSet


def compiled(loaded: Loaded) -> "RuleSet":
    """Compile the rules, against the messages of the CRI. Raises ConfigError."""
    from criproxy.rules.ruleset import compile_rules

    specs = [each.spec for each in loaded.rules]
    try:
        return compile_rules(specs, loaded.config.rules_mode == "dry-run")
    except RuleError as error:
        rule = next(each for each in loaded.rules if each.spec.name == error.rule)
        raise rule.error(error.keys, error.message) from error


def hooks(loaded: Loaded) -> dict[str, "Hook"]:
    """Load the scripts and prepare the webhooks that rules name, by rule. Raises ConfigError."""
    from criproxy.enforce.hooks import make_hook

    made = {}
    for rule in loaded.rules:
        if rule.spec.hook is not None:
            key = "url" if rule.spec.hook.script is None else "script"
            try:
                made[rule.spec.name] = make_hook(rule.spec.hook, loaded.directory)
            except (ValueError, OSError) as error:
                raise rule.error(("hook", key), " ".join(str(error).split())) from error
    return made
