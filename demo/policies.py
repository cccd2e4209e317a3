"""The demo's MCP server: the shop's refund policies, over stdio (`python -m demo.policies`).

Named in the settings (`AGENTFLOW_MCP_STDIO`); a worker starts it when a block first asks.
"""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

server = MCPServer("refund-policies")

# category -> days after delivery within which a refund is owed, and up to which amount nobody is asked
_POLICIES = {"appliances": (30, 150.0), "home": (60, 150.0), "electronics": (14, 100.0)}


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def refund_policy(category: str, daysSinceDelivery: int) -> dict[str, str | int | float | bool]:
    """What the policy says about a product of this category, delivered so many days ago."""
    days, limit = _POLICIES.get(category, (14, 0.0))
    within = daysSinceDelivery <= days
    said = "within" if within else "after"
    return {
        "category": category,
        "days": days,
        "withinPeriod": within,
        "approvalAbove": limit if within else 0.0,
        "summary": f"{category.capitalize()}: {days} days. Delivered {daysSinceDelivery} days ago, "
        f"{said} the period. Above EUR {limit if within else 0.0:.2f} a person decides.",
    }


if __name__ == "__main__":
    server.run("stdio")
