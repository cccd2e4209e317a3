from __future__ import annotations

import factory

from agentflow.agents.models import Agent, Script

from .governance import WorkspaceFactory


class AgentFactory(factory.django.DjangoModelFactory[Agent]):
    class Meta:
        model = Agent

    workspace = factory.SubFactory(WorkspaceFactory)
    agent_id = factory.Sequence("agent-{}".format)
    name = factory.LazyAttribute(lambda agent: agent.agent_id.title())
    tool_type = "API"
    configuration = factory.LazyFunction(lambda: {"url": "https://api.example/"})


class ScriptFactory(factory.django.DjangoModelFactory[Script]):
    class Meta:
        model = Script

    workspace = factory.SubFactory(WorkspaceFactory)
    name = factory.Sequence("script-{}".format)
    source = "import sys\nprint(sys.stdin.read())"
