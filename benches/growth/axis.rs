//! What grows, how far, and what one run costs at a point of it.
//!
//! Deliveries per second are about the same at all points of an axis (where members are few, messages per second have
//! an upper bound), because the load itself changes the price: one that is busier sleeps and wakes less.

use std::time::Duration;

use super::delivery::Outcome;
use super::delivery::fleet::Fleet;
use super::delivery::load::{Crowd, Plan, SMALLEST_MESSAGE};
use super::delivery::process::{Running, Target};

/// What becomes more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Axis {
    Sessions,
    Rooms,
    Members,
    Size,
}

/// How far it goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Full,
    Quick,
    Smoke,
}

/// The two that are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Floor,
    Server,
}

/// Points that are measured in the same way.
pub(crate) struct Curve {
    /// What is special about it, where an axis has several.
    pub(crate) label: &'static str,
    pub(crate) points: &'static [usize],
    setting: fn(usize) -> Setting,
}

/// What there is at a point.
pub(crate) struct Setting {
    rooms: usize,
    /// Of each room.
    members: usize,
    /// Messages per second, over all rooms.
    rate: f64,
    /// Bytes of a text.
    size: usize,
    /// Sessions that do nothing.
    idle: usize,
    /// Other rooms, in which nothing is said.
    silent_rooms: usize,
}

/// Where an axis says nothing else.
const USUAL: Setting = Setting {
    rooms: 1,
    members: 100,
    rate: 200.0,
    size: 100,
    idle: 0,
    silent_rooms: 0,
};

/// Sessions that are there besides the idle ones: the members and one that publishes.
const BUSY: usize = USUAL.members + 1;

/// How long nothing must come before what is missing counts as lost.
const SILENCE: Duration = Duration::from_secs(3);

/// Rooms with traffic, beside silent ones.
const BUSY_ROOMS: usize = 10;

impl Axis {
    pub(crate) const ALL: [Self; 4] = [Self::Sessions, Self::Rooms, Self::Members, Self::Size];

    /// Also the file's, without its ending.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Rooms => "rooms",
            Self::Members => "members",
            Self::Size => "size",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Sessions => "A delivery, as more sessions are connected",
            Self::Rooms => "A delivery, as more rooms are occupied",
            Self::Members => "A delivery, as the room has more members",
            Self::Size => "A delivery, as messages grow",
        }
    }

    /// What stays as it is.
    pub(crate) fn fixed(self) -> &'static str {
        match self {
            Self::Sessions => {
                "one room of 100 members, 100 bytes, 200 messages/s; the other sessions are idle"
            }
            Self::Rooms => "10 members per room with traffic, 100 bytes, 2,000 messages/s over all rooms",
            Self::Members => "one room, 100 bytes, 20,000 deliveries/s, but at most 1,000 messages/s",
            Self::Size => "one room of 100 members, 25 messages/s",
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Sessions => "sessions connected",
            Self::Rooms => "rooms occupied",
            Self::Members => "members of the room",
            Self::Size => "bytes of a message's text",
        }
    }

    /// A point as it is written.
    pub(crate) fn shown(self, point: usize) -> String {
        let (thousand, units) = match self {
            Self::Size => (1_024, [" B", " KiB"]),
            _ => (1_000, ["", "k"]),
        };
        if point < thousand {
            return format!("{point}{}", units[0]);
        }
        let (whole, tenths) = (point / thousand, point % thousand * 10 / thousand);
        match tenths {
            0 => format!("{whole}{}", units[1]),
            _ => format!("{whole}.{tenths}{}", units[1]),
        }
    }

    pub(crate) fn curves(self, extent: Extent) -> Vec<Curve> {
        let curve = |label, [full, quick, smoke]: [&'static [usize]; 3], setting| Curve {
            label,
            points: match extent {
                Extent::Full => full,
                Extent::Quick => quick,
                Extent::Smoke => smoke,
            },
            setting,
        };
        match self {
            // 19,000 with the generator's own descriptors stay below a limit of 20,000.
            Self::Sessions => vec![curve(
                "",
                [
                    &[1_000, 2_000, 5_000, 10_000, 19_000],
                    &[300, 1_000, 3_000],
                    &[150, 300],
                ],
                |sessions| Setting {
                    idle: sessions - BUSY,
                    ..USUAL
                },
            )],
            Self::Rooms => vec![
                curve(
                    "traffic in all of them",
                    [&[1, 10, 100, 1_000, 1_800], &[1, 10, 100], &[1, 5]],
                    |rooms| Setting {
                        rooms,
                        members: 10,
                        rate: 2_000.0,
                        ..USUAL
                    },
                ),
                curve(
                    "traffic in 10 of them",
                    [&[10, 100, 1_000, 10_000, 100_000], &[10, 100, 1_000], &[10, 20]],
                    |rooms| Setting {
                        rooms: BUSY_ROOMS,
                        members: 10,
                        rate: 2_000.0,
                        silent_rooms: rooms - BUSY_ROOMS,
                        ..USUAL
                    },
                ),
            ],
            Self::Members => vec![curve(
                "",
                [&[1, 10, 100, 1_000, 10_000], &[1, 10, 100, 1_000], &[1, 20]],
                |members| Setting {
                    members,
                    rate: (20_000.0 / members as f64).min(1_000.0),
                    ..USUAL
                },
            )],
            Self::Size => vec![curve(
                "",
                // A message has to carry its number and its time.
                [
                    &[SMALLEST_MESSAGE + 1, 256, 2_048, 16_384, 61_440],
                    &[SMALLEST_MESSAGE + 1, 2_048, 61_440],
                    &[SMALLEST_MESSAGE + 1, 1_024],
                ],
                |size| Setting {
                    size,
                    rate: 25.0,
                    ..USUAL
                },
            )],
        }
    }
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Floor, Self::Server];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Server => "server",
        }
    }

    fn target(self) -> Target {
        match self {
            Self::Floor => Target::floor(self.name(), false),
            Self::Server => Target::server(self.name(), env!("CARGO_BIN_EXE_roomcast").into(), false),
        }
    }
}

impl Curve {
    /// What a delivery costs one side at this point, in microseconds of CPU. Messages are sent for so many seconds.
    pub(crate) fn measure(&self, point: usize, side: Side, seconds: f64) -> Outcome<f64> {
        let setting = (self.setting)(point);
        let running = Running::start(&side.target())?;
        let mut crowd = Crowd::gather(
            running.address(),
            running.address(),
            Plan {
                rooms: setting.rooms,
                members: setting.members,
                rate: setting.rate,
                burst: 1,
                seconds,
                size: setting.size,
                publishers: 1,
                v1: false,
                silence: SILENCE,
            },
        )?;
        if setting.silent_rooms > 0 {
            crowd.hold(running.address(), setting.silent_rooms)?;
        }
        let mut idle = Fleet::new()?;
        idle.connect(running.address(), setting.idle, false)?;
        idle.idle(Duration::from_millis(200))?;
        let meter = running.meter()?;
        let tally = crowd.run()?;
        let spent = meter.read()?;
        // What was said to them meanwhile is read now: that they are still there, for one.
        idle.idle(Duration::from_millis(1))?;
        let astray = [
            ("lost", tally.lost + tally.forgone),
            ("duplicated", tally.duplicated),
            ("reordered", tally.reordered),
            ("misrouted", tally.misrouted),
            ("refused", tally.refused),
            ("connections closed", tally.closed + idle.closed),
        ];
        if let Some((what, count)) = astray.iter().find(|(_, count)| *count > 0) {
            return Err(format!("{what}: {count}").into());
        }
        Ok(spent.server().microseconds() / tally.delivered as f64)
    }
}
