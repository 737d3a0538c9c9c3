"""Degraded accelerators are not offered, so that they can be looked at.

A policy says only what it cares about: everything else is offered as the agent's built-in would. The names are those
of wit/policy.wit; `componentize-py -d wit -w slot-reporter bindings types` writes them out with their documentation.
"""

from wit_world import exports
from wit_world.exports.about import PolicyInfo, SettingInfo
from wit_world.exports.reporting import Offering, Withheld
from wit_world.imports.types import DeviceKind, Health, SettingValue_Flag


class About(exports.About):
    def describe(self):
        return PolicyInfo(
            name="{{name}}",
            version="0.1.0",
            summary="Withholds degraded accelerators",
            settings=[
                SettingInfo(
                    "withhold-degraded",
                    SettingValue_Flag(True),
                    "Whether degraded accelerators are withheld.",
                )
            ],
            image_labels=[],
            needs=[],
        )

    def check_settings(self, settings):
        pass  # their types the agent has checked


class Reporting(exports.Reporting):
    def report(self, ctx, inventory):
        settings = {setting.key: setting.value.value for setting in ctx.settings}
        withheld = []
        if settings["withhold-degraded"]:
            for index, device in enumerate(inventory.devices):
                accelerator = inventory.models[device.model].kind == DeviceKind.ACCELERATOR
                if accelerator and device.health == Health.DEGRADED:
                    fault = device.fault or "no fault told"
                    withheld.append(Withheld(index, None, f"degraded: {fault}"))
        return Offering([], withheld)
