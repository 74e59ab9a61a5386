"""Every command that there is, by `<noun>.<verb>`: what its body is, and what decides on it."""

from typing import Final

from schemas import writes
from workers.persistence.commander import Action
from workers.persistence.commands import conversations, users

ACTIONS: Final = {
    "conversations.create": Action(writes.CreateConversation, conversations.create),
    "conversations.update": Action(writes.UpdateConversation, conversations.update),
    "conversations.delete": Action(writes.DeleteConversation, conversations.delete),
    "conversations.add_items": Action(writes.AddItems, conversations.add_items),
    "conversations.delete_item": Action(writes.DeleteItem, conversations.delete_item),
    "users.delete": Action(writes.DeleteUser, users.delete),
}
