//! The values that labels have. Each label is an enumeration, so nobody outside can make a new time series.

/// A label and all its values.
pub trait Label: Copy + 'static {
    /// The label's name.
    const KEY: &'static str;
    /// Every value, in the order of [`Label::index`].
    const VALUES: &'static [&'static str];

    /// Its text.
    fn as_str(self) -> &'static str {
        Self::VALUES[self.index()]
    }

    /// The place of this value among [`Label::VALUES`].
    fn index(self) -> usize;
}

/// An enumeration with the text of each of its values.
macro_rules! labels {
    ($($(#[$about:meta])* $key:literal => $name:ident {
        $($(#[$about_value:meta])* $variant:ident = $value:literal,)+
    })+) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$about_value])* $variant,)+
        }

        impl Label for $name {
            const KEY: &'static str = $key;
            const VALUES: &'static [&'static str] = &[$($value),+];

            fn index(self) -> usize {
                self as usize
            }
        }
    )+};
}

labels! {
    /// Reasons for ending a session.
    "reason" => Eviction {
        /// It did not read what it was sent.
        Slow = "slow",
        /// Nothing was heard of it.
        Mute = "mute",
        /// It read nothing at all; its socket was cut.
        Stuck = "stuck",
        /// It violated RFC 6455.
        Violation = "violation",
    }

    /// Who ended a session.
    "by" => ClosedBy {
        /// The server, with a close frame.
        Server = "server",
        /// The peer, with a close frame.
        Peer = "peer",
        /// The server, by resetting a connection whose peer did not read.
        Cut = "cut",
        /// Nobody: the connection was lost.
        Loss = "loss",
    }

    /// The status that a refused handshake was answered with.
    "status" => Refused {
        /// It is malformed, or asks for what is not spoken here.
        BadRequest = "400",
        /// A token is missing or bad.
        Unauthorized = "401",
        /// The page's origin may not connect.
        Forbidden = "403",
        /// It is no GET.
        Method = "405",
        /// It is of another version, or no handshake at all.
        Upgrade = "426",
        /// The node is stopping.
        Stopping = "503",
    }

    /// What is wrong with a token.
    "reason" => TokenProblem {
        /// There is none.
        Missing = "missing",
        /// It is no token, or too long to be looked at.
        Malformed = "malformed",
        /// It is signed in another way than the key's.
        Algorithm = "algorithm",
        /// Another key has signed it.
        Signature = "signature",
        /// It has expired, or is not valid yet.
        Time = "time",
        /// A claim has the wrong type, or it is from or for somebody else.
        Claims = "claims",
        /// It renews the token of another user.
        OtherUser = "other_user",
    }

    /// What a request to the server API is about.
    "route" => ApiRoute {
        /// The messages of a room: published, read, deleted.
        Messages = "messages",
        /// Many publishes at once.
        Batch = "batch",
        /// Occupied rooms.
        Rooms = "rooms",
        /// The members of a room.
        Members = "members",
        /// Users and their sessions.
        Users = "users",
        /// The document that describes the API.
        Document = "document",
        /// Nothing that there is.
        Other = "other",
    }

    /// What became of a publish.
    "outcome" => Published {
        /// The broker has it.
        Accepted = "accepted",
        /// It is certainly not published.
        Refused = "refused",
        /// It is perhaps published.
        Unknown = "unknown",
    }

    /// The connections of a node to Redis.
    "connection" => Connection {
        /// The one that subscribes.
        Subscriber = "subscriber",
        /// The one that publishes.
        Publisher = "publisher",
        /// The one that reads history.
        Reader = "reader",
    }

    /// What is wrong with a payload on a channel.
    "reason" => BadPayload {
        /// It has another form than a message.
        Malformed = "malformed",
        /// Its message says that it is JSON, and is not.
        NotJson = "not_json",
        /// It names another room than its channel.
        OtherRoom = "other_room",
        /// It is larger than this node takes.
        TooLarge = "too_large",
    }

    /// Why a message that had arrived was dropped.
    "reason" => Dropped {
        /// Too much was on its way to the sessions.
        TransitFull = "transit_full",
        /// Too much was held back behind a hole.
        HeldFull = "held_full",
        /// It was held back when the link was lost.
        LinkLost = "link_lost",
    }

    /// How a read of history ended.
    "outcome" => Read {
        /// With a page.
        Answered = "answered",
        /// The broker was away; it is tried again.
        Away = "away",
        /// The broker will not do it.
        Refused = "refused",
    }

    /// Whether everything that was missed could be replayed.
    "recovered" => Recovered {
        /// It could.
        Yes = "true",
        /// It could not.
        No = "false",
    }

    /// Why messages cannot be had.
    "cause" => GapCause {
        /// They are not kept any more.
        NotKept = "not_kept",
        /// A new numbering has begun: the broker has lost count, or the history was deleted.
        NewNumbering = "new_numbering",
        /// The broker refuses to let them be read.
        Unreadable = "unreadable",
        /// They went while they were being replayed to one session.
        Replay = "replay",
        /// There is no history, and something may have been missed.
        NoHistory = "no_history",
    }
}

impl From<bool> for Recovered {
    fn from(recovered: bool) -> Self {
        if recovered { Self::Yes } else { Self::No }
    }
}

impl Refused {
    /// The label for this status.
    #[must_use]
    pub fn of(status: u16) -> Self {
        match status {
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            405 => Self::Method,
            426 => Self::Upgrade,
            503 => Self::Stopping,
            _ => Self::BadRequest,
        }
    }
}
