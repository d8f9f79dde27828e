"""Creates the hook of a rule; the modules of scripts and webhooks are imported only when used."""

from pathlib import Path

from criproxy.enforce.hooks.hook import Hook
from criproxy.rules.spec import HookSpec


def make_hook(spec: HookSpec, base_dir: Path) -> Hook:
    """Create the hook of a rule; a script's path is relative to ``base_dir``.

    Raises ValueError or OSError for a hook that cannot be used.
    """
    if spec.script is not None:
        from criproxy.enforce.hooks.scripts import ScriptHook

        return ScriptHook(spec, base_dir)
    from criproxy.enforce.hooks.webhooks import Webhook

    return Webhook(spec)
