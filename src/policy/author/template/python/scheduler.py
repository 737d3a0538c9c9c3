"""Batch kernels are spread over the devices, all others packed.

A policy says only what it cares about: which devices those are the agent's built-in decides. The names are those of
wit/policy.wit; `componentize-py -d wit -w scheduler bindings types` writes them out with their documentation.
"""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.about import PolicyInfo, SettingInfo
from wit_world.exports.scheduling import Placement, Strategy
from wit_world.imports.types import SessionKind, SettingValue_Texts


class About(exports.About):
    def describe(self):
        return PolicyInfo(
            name="{{name}}",
            version="0.1.0",
            summary="Spreads batch kernels over the devices, packs all others",
            settings=[
                SettingInfo(
                    "spread",
                    SettingValue_Texts(["batch"]),
                    "Kinds of session that are spread over the devices.",
                )
            ],
            image_labels=[],
            needs=[],
        )

    def check_settings(self, settings):
        known = {kind.name.lower() for kind in SessionKind}
        spread = next(setting.value.value for setting in settings if setting.key == "spread")
        problems = [f"spread: there is no session kind {kind!r}" for kind in spread if kind not in known]
        if problems:
            raise Err(problems)


class Scheduling(exports.Scheduling):
    def place(self, ctx, request, node, choice):
        settings = {setting.key: setting.value.value for setting in ctx.settings}
        if request.session_kind.name.lower() in settings["spread"]:
            return Placement([], Strategy.SPREAD, [], "spread over the devices")
        return Placement([], Strategy.PACK, [], None)

    def order(self, ctx, waiting, node, load):
        return []  # first come, first served

    def evict(self, ctx, pressure, running, node):
        return None  # as the built-in would
