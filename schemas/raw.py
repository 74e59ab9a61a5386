"""JSON inside a message that is passed on as it is."""

from typing import TYPE_CHECKING

import msgspec

# msgspec takes `Raw | None` for "null only". As the type of a field with the default None, Raw
# itself decodes; an absent value stays None, and is left out where `omit_defaults` is set.
if TYPE_CHECKING:
    OptionalRaw = msgspec.Raw | None
else:
    OptionalRaw = msgspec.Raw
