"""Kernels that do not say themselves how they reach the world get the operator's proxy.

A policy answers edits, not a container. The names are those of wit/policy.wit;
`componentize-py -d wit -w container-config bindings types` writes them out with their documentation.
"""

from wit_world import exports
from wit_world.exports.about import PolicyInfo, SettingInfo
from wit_world.exports.configuring import Edit_SetEnv
from wit_world.imports.types import SettingValue_Text


class About(exports.About):
    def describe(self):
        return PolicyInfo(
            name="{{name}}",
            version="0.1.0",
            summary="Tells kernels the operator's proxy",
            settings=[
                SettingInfo(
                    "proxy",
                    SettingValue_Text(""),
                    "Proxy of kernels, as http://proxy.example.org:3128; empty: none.",
                )
            ],
            image_labels=[],
            needs=["set-env"],  # the operator must grant it
        )

    def check_settings(self, settings):
        pass  # their types the agent has checked


class Configuring(exports.Configuring):
    def adjust(self, ctx, request, node, shares, plan):
        proxy = {setting.key: setting.value.value for setting in ctx.settings}["proxy"]
        there = {variable.name for variable in plan.env}
        wanted = ["HTTP_PROXY", "HTTPS_PROXY"] if proxy else []
        return [Edit_SetEnv((name, proxy)) for name in wanted if name not in there]
