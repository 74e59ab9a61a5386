"""Every command that there is, by `<noun>.<verb>`: what its body is, and what decides on it."""

from typing import Final

from schemas import writes
from workers.persistence.commander import Action
from workers.persistence.commands import (
    branches,
    calls,
    completions,
    conversations,
    files,
    imports,
    projects,
    prompts,
    responses,
    settings,
    shares,
    turns,
    users,
)

ACTIONS: Final = {
    "conversations.create": Action(writes.CreateConversation, conversations.create),
    "conversations.update": Action(writes.UpdateConversation, conversations.update),
    "conversations.retitle": Action(writes.Retitle, conversations.retitle),
    "conversations.delete": Action(writes.DeleteConversation, conversations.delete),
    "conversations.add_items": Action(writes.AddItems, conversations.add_items),
    "conversations.regenerate": Action(writes.Regenerate, turns.regenerate),
    "completions.update": Action(writes.UpdateCompletion, completions.update),
    "completions.delete": Action(writes.DeleteCompletion, completions.delete),
    "responses.delete": Action(writes.DeleteResponse, responses.delete),
    "conversations.delete_item": Action(writes.DeleteItem, conversations.delete_item),
    "conversations.delete_many": Action(writes.DeleteConversations, conversations.delete_many),
    "conversations.update_call": Action(writes.UpdateCall, calls.update),
    "conversations.create_branch": Action(writes.CreateBranch, branches.create),
    "conversations.activate_branch": Action(writes.NamedBranch, branches.activate),
    "conversations.delete_branch": Action(writes.NamedBranch, branches.delete),
    "conversations.edit_item": Action(writes.EditItem, branches.edit),
    "conversations.import": Action(writes.ImportConversation, imports.begin),
    "conversations.import_items": Action(writes.ImportItems, imports.go_on),
    "files.index": Action(writes.IndexFile, files.index),
    "files.forget": Action(writes.ForgetFile, files.forget),
    "shares.create": Action(writes.CreateShare, shares.create),
    "shares.revoke": Action(writes.RevokeShare, shares.revoke),
    "users.delete": Action(writes.DeleteUser, users.delete, users.revoke_keys),
    "projects.create": Action(writes.CreateProject, projects.create),
    "projects.update": Action(writes.UpdateProject, projects.update),
    "projects.delete": Action(writes.DeleteProject, projects.delete),
    "settings.merge": Action(writes.MergeSettings, settings.merge),
    "prompts.create": Action(writes.CreatePrompt, prompts.create),
    "prompts.create_version": Action(writes.CreatePromptVersion, prompts.create_version),
    "prompts.delete": Action(writes.DeletePrompt, prompts.delete),
}
