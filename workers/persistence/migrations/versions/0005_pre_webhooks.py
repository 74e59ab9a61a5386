"""Projects have webhooks.

`pre`: the release before does not know the columns, and leaves them empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005_pre_webhooks"
down_revision = "0004_pre_told"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add where they go, and the sealed secret that signs them."""
    op.add_column("projects", sa.Column("webhook_url", sa.Text))
    op.add_column("projects", sa.Column("webhook_secret", sa.Text))


def downgrade() -> None:
    """Take them away."""
    op.drop_column("projects", "webhook_secret")
    op.drop_column("projects", "webhook_url")
