//! Python pickles, read as the data that they are (contracts: manager §1.6).
//!
//! A pickle is a program for a small stack machine, and unpickling runs what it names. This reader carries
//! out only the opcodes with which the manager's classes are written, builds a graph of nodes, and names
//! nothing but the classes in `CLASSES`: any other is refused by its name before anything is made of it.
//! No code belongs to a class here, it is a label. From the finished graph the few texts and numbers
//! that matter are taken.
//!
//! Memory follows the pickle's length: a node takes an opcode, opcodes take bytes, and nodes are shared by
//! index, so a memo cannot double anything. What is taken out of a graph is bounded once more, since a
//! graph may mention one long text many times. Nothing here recurses.

use crate::value::Value;

mod graph;

use graph::{Graph, Node, NodeId};

/// Longest pickle that is read, in bytes. Real ones have 50 to 400.
pub const PICKLE_MAX: usize = 16 * 1024;

/// Text taken from a graph, as a multiple of the pickle's length. Real ones stay below one.
const TEXT_RATIO_MAX: usize = 8;

/// Why a pickle is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// A class that may not be in a pickle, by module and name.
    #[error("the class {0} is not one of those that are read")]
    Class(String),
    /// An opcode that the classes which are read do not need.
    #[error("opcode {0:#04x} is not one of those that are read")]
    Opcode(u8),
    /// It ends before `STOP`, or a length leads past its end.
    #[error("it is cut short")]
    Truncated,
    /// It is longer than [`PICKLE_MAX`].
    #[error("{0} bytes are too many")]
    Length(usize),
    /// Its protocol is newer than 5.
    #[error("its protocol is {0}, newer than 5")]
    Protocol(u8),
    /// The opcodes do not fit what is on the stack, or something is left at the end.
    #[error("its opcodes do not belong together")]
    Stack,
    /// A text that is not UTF-8.
    #[error("a text is not UTF-8")]
    Utf8,
    /// An integer beyond 64 bits.
    #[error("an integer is too large")]
    Integer,
    /// An object of another class than its extension type has, or with other content.
    #[error("it holds no {0}")]
    Shape(&'static str),
    /// The texts of the object would be many times as long as the pickle.
    #[error("it repeats too much")]
    Repetition,
}

/// What a class is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Enum,
    Decimal,
    ImageRef,
    /// Part of an `ImageRef`; nothing of it is taken.
    PlatformTagSet,
    ResourceSlot,
    SlotName,
    BinarySize,
}

impl Kind {
    /// The kind of object that an extension type's pickle holds; none when the type is not a pickle.
    pub(crate) fn of_extension(code: i8) -> Option<Self> {
        Some(match code {
            3 => Kind::Decimal,
            6 => Kind::Enum,
            7 => Kind::ImageRef,
            8 => Kind::ResourceSlot,
            9 => Kind::SlotName,
            16 => Kind::BinarySize,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Enum => "enum",
            Kind::Decimal => "Decimal",
            Kind::ImageRef => "ImageRef",
            Kind::PlatformTagSet => "PlatformTagSet",
            Kind::ResourceSlot => "ResourceSlot",
            Kind::SlotName => "SlotName",
            Kind::BinarySize => "BinarySize",
        }
    }
}

/// A class that may be in a pickle.
#[derive(Debug, PartialEq, Eq)]
struct Class {
    module: &'static str,
    name: &'static str,
    kind: Kind,
}

const COMMON_TYPES: &str = "ai.backend.common.types";
const COMMON_DOCKER: &str = "ai.backend.common.docker";

/// Every class that is read: those that the manager sends, those that it may send in what it passes on, and
/// `ServicePortProtocols`, which the reference's agent answers with.
const CLASSES: &[Class] = &[
    Class { module: COMMON_TYPES, name: "AutoPullBehavior", kind: Kind::Enum },
    Class { module: COMMON_TYPES, name: "ClusterMode", kind: Kind::Enum },
    Class { module: COMMON_TYPES, name: "ServicePortProtocols", kind: Kind::Enum },
    Class { module: COMMON_TYPES, name: "SessionTypes", kind: Kind::Enum },
    Class {
        module: "ai.backend.common.events.event_types.kernel.types",
        name: "KernelLifecycleEventReason",
        kind: Kind::Enum,
    },
    Class { module: "decimal", name: "Decimal", kind: Kind::Decimal },
    Class { module: COMMON_DOCKER, name: "ImageRef", kind: Kind::ImageRef },
    Class { module: COMMON_DOCKER, name: "PlatformTagSet", kind: Kind::PlatformTagSet },
    Class { module: COMMON_TYPES, name: "ResourceSlot", kind: Kind::ResourceSlot },
    Class { module: COMMON_TYPES, name: "SlotName", kind: Kind::SlotName },
    Class { module: COMMON_TYPES, name: "BinarySize", kind: Kind::BinarySize },
];

impl Class {
    fn find(module: &str, name: &str) -> Result<&'static Self, PickleError> {
        let class = CLASSES.iter().find(|class| class.module == module && class.name == name);
        class.ok_or_else(|| {
            // Foreign text on its way to a log.
            let full = format!("{module}.{name}");
            PickleError::Class(full.chars().take(120).flat_map(char::escape_debug).collect())
        })
    }
}

/// Reads a pickle of an object of this kind.
pub(crate) fn read(pickle: &[u8], kind: Kind) -> Result<Value, PickleError> {
    if pickle.len() > PICKLE_MAX {
        return Err(PickleError::Length(pickle.len()));
    }
    let (graph, root) = Graph::read(pickle)?;
    let mut taken = Taken { graph: &graph, kind, text_left: pickle.len() * TEXT_RATIO_MAX };
    taken.value(root)
}

/// Takes what matters out of a graph.
struct Taken<'g, 'a> {
    graph: &'g Graph<'a>,
    /// What the root is to be, also for messages.
    kind: Kind,
    text_left: usize,
}

impl<'g, 'a> Taken<'g, 'a> {
    fn value(&mut self, root: NodeId) -> Result<Value, PickleError> {
        let object = self.object(root, self.kind)?;
        Ok(match self.kind {
            Kind::Enum => {
                Value::Enum { class: object.class.name.to_owned(), value: self.scalar(object.argument)? }
            }
            Kind::Decimal => Value::Decimal(self.scalar(object.argument)?),
            Kind::SlotName => Value::SlotName(self.text(object.argument)?),
            Kind::BinarySize => match self.node(object.argument)? {
                Node::Int(bytes) => Value::BinarySize(u64::try_from(*bytes).map_err(|_| self.misshapen())?),
                _ => return Err(self.misshapen()),
            },
            Kind::ImageRef => Value::ImageRef(Box::new(self.image(object.state)?)),
            Kind::ResourceSlot => Value::Slots(self.slots(object.state)?),
            Kind::PlatformTagSet => return Err(self.misshapen()),
        })
    }

    fn image(&mut self, state: Option<NodeId>) -> Result<crate::ImageRef, PickleError> {
        let fields = self.dict(state)?;
        let project = self.field(fields, "project")?;
        Ok(crate::ImageRef {
            name: self.field(fields, "name").and_then(|node| self.text(Some(node)))?,
            project: match self.node(Some(project))? {
                Node::None => None,
                _ => Some(self.text(Some(project))?),
            },
            tag: self.field(fields, "tag").and_then(|node| self.text(Some(node)))?,
            registry: self.field(fields, "registry").and_then(|node| self.text(Some(node)))?,
            architecture: self.field(fields, "architecture").and_then(|node| self.text(Some(node)))?,
            is_local: match self.field(fields, "is_local").and_then(|node| self.node(Some(node)))? {
                Node::Bool(is_local) => *is_local,
                _ => return Err(self.misshapen()),
            },
        })
    }

    /// The state of a `UserDict`: `{"data": {slot: amount}}`, alone or behind None in a pair.
    fn slots(&mut self, state: Option<NodeId>) -> Result<Vec<(String, String)>, PickleError> {
        let state = match self.node(state)? {
            Node::Tuple(pair) => match pair.as_slice() {
                [first, second] if matches!(self.node(Some(*first))?, Node::None) => Some(*second),
                [first, _] => Some(*first),
                _ => return Err(self.misshapen()),
            },
            _ => state,
        };
        let fields = self.dict(state)?;
        let data = self.field(fields, "data")?;
        let data = self.dict(Some(data))?;
        data.iter().map(|(slot, amount)| Ok((self.text(Some(*slot))?, self.amount(*amount)?))).collect()
    }

    /// A Decimal, or text or an integer in its place.
    fn amount(&mut self, id: NodeId) -> Result<String, PickleError> {
        match self.node(Some(id))? {
            Node::Object(_) => {
                let decimal = self.object(id, Kind::Decimal)?;
                self.scalar(decimal.argument)
            }
            _ => self.scalar(Some(id)),
        }
    }

    fn object(&self, id: NodeId, kind: Kind) -> Result<Object, PickleError> {
        let Node::Object(object) = self.node(Some(id))? else { return Err(self.misshapen()) };
        if object.class.kind != kind {
            return Err(self.misshapen());
        }
        let argument = match self.node(Some(object.arguments))? {
            Node::Tuple(arguments) => arguments.first().copied(),
            _ => None,
        };
        Ok(Object { class: object.class, argument, state: object.state })
    }

    fn dict(&self, id: Option<NodeId>) -> Result<&'g [(NodeId, NodeId)], PickleError> {
        match self.node(id)? {
            Node::Dict(pairs) => Ok(pairs),
            _ => Err(self.misshapen()),
        }
    }

    fn field(&self, fields: &[(NodeId, NodeId)], name: &str) -> Result<NodeId, PickleError> {
        let is_named = |id: NodeId| matches!(self.node(Some(id)), Ok(Node::Str(text)) if *text == name);
        let field = fields.iter().rev().find(|(key, _)| is_named(*key));
        field.map(|(_, value)| *value).ok_or_else(|| self.misshapen())
    }

    fn text(&mut self, id: Option<NodeId>) -> Result<String, PickleError> {
        match self.node(id)? {
            Node::Str(text) => {
                self.text_left = self.text_left.checked_sub(text.len()).ok_or(PickleError::Repetition)?;
                Ok((*text).to_owned())
            }
            _ => Err(self.misshapen()),
        }
    }

    /// A text, or an integer as one.
    fn scalar(&mut self, id: Option<NodeId>) -> Result<String, PickleError> {
        match self.node(id)? {
            Node::Int(number) => Ok(number.to_string()),
            _ => self.text(id),
        }
    }

    fn node(&self, id: Option<NodeId>) -> Result<&'g Node<'a>, PickleError> {
        id.and_then(|id| self.graph.node(id)).ok_or_else(|| self.misshapen())
    }

    fn misshapen(&self) -> PickleError {
        PickleError::Shape(self.kind.name())
    }
}

/// What is looked at of an object.
struct Object {
    class: &'static Class,
    /// The first argument of its class.
    argument: Option<NodeId>,
    state: Option<NodeId>,
}

#[cfg(test)]
mod tests;
