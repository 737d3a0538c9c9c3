//! The stack machine: opcodes in, a graph of nodes out.

use super::{Class, PickleError};

/// A node's place in its graph.
pub(super) type NodeId = u32;

/// What an opcode made. Texts are borrowed from the pickle.
#[derive(Debug)]
pub(super) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    Str(&'a str),
    /// Something that may be in a state but is never taken: a float, bytes.
    Opaque,
    Tuple(Vec<NodeId>),
    /// Elements are not kept: nothing is taken from lists.
    List,
    Dict(Vec<(NodeId, NodeId)>),
    Class(&'static Class),
    Object(Object),
}

/// An object, before anyone has looked whether it is one of its class.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) class: &'static Class,
    /// A tuple.
    pub(super) arguments: NodeId,
    pub(super) state: Option<NodeId>,
}

/// The nodes of a pickle.
#[derive(Debug)]
pub(super) struct Graph<'a> {
    nodes: Vec<Node<'a>>,
}

impl<'a> Graph<'a> {
    /// Carries out a pickle; gives its graph and the node that it leaves.
    pub(super) fn read(pickle: &'a [u8]) -> Result<(Self, NodeId), PickleError> {
        let mut machine = Machine {
            code: pickle,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
        };
        let root = machine.run()?;
        Ok((Self { nodes: machine.nodes }, root))
    }

    pub(super) fn node(&self, id: NodeId) -> Option<&Node<'a>> {
        self.nodes.get(usize::try_from(id).ok()?)
    }
}

/// Pickle opcodes, by the names that Python's `pickletools` gives them.
mod op {
    pub(super) const MARK: u8 = 0x28;
    pub(super) const EMPTY_TUPLE: u8 = 0x29;
    pub(super) const STOP: u8 = 0x2e;
    pub(super) const SHORT_BINBYTES: u8 = 0x43;
    pub(super) const BINFLOAT: u8 = 0x47;
    pub(super) const BININT: u8 = 0x4a;
    pub(super) const BININT1: u8 = 0x4b;
    pub(super) const BININT2: u8 = 0x4d;
    pub(super) const NONE: u8 = 0x4e;
    pub(super) const REDUCE: u8 = 0x52;
    pub(super) const BINUNICODE: u8 = 0x58;
    pub(super) const EMPTY_LIST: u8 = 0x5d;
    pub(super) const APPEND: u8 = 0x61;
    pub(super) const BUILD: u8 = 0x62;
    pub(super) const APPENDS: u8 = 0x65;
    pub(super) const BINGET: u8 = 0x68;
    pub(super) const LONG_BINGET: u8 = 0x6a;
    pub(super) const SETITEM: u8 = 0x73;
    pub(super) const TUPLE: u8 = 0x74;
    pub(super) const SETITEMS: u8 = 0x75;
    pub(super) const EMPTY_DICT: u8 = 0x7d;
    pub(super) const PROTO: u8 = 0x80;
    pub(super) const NEWOBJ: u8 = 0x81;
    pub(super) const TUPLE1: u8 = 0x85;
    pub(super) const TUPLE2: u8 = 0x86;
    pub(super) const TUPLE3: u8 = 0x87;
    pub(super) const NEWTRUE: u8 = 0x88;
    pub(super) const NEWFALSE: u8 = 0x89;
    pub(super) const LONG1: u8 = 0x8a;
    pub(super) const SHORT_BINUNICODE: u8 = 0x8c;
    pub(super) const STACK_GLOBAL: u8 = 0x93;
    pub(super) const MEMOIZE: u8 = 0x94;
    pub(super) const FRAME: u8 = 0x95;
}

/// The newest protocol there is.
const PROTOCOL_MAX: u8 = 5;

struct Machine<'a> {
    /// What is still to be carried out.
    code: &'a [u8],
    nodes: Vec<Node<'a>>,
    stack: Vec<NodeId>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: Vec<NodeId>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<NodeId, PickleError> {
        loop {
            match self.byte()? {
                op::STOP => break,
                opcode => self.step(opcode)?,
            }
        }
        match self.stack.as_slice() {
            [root] if self.code.is_empty() && self.marks.is_empty() => Ok(*root),
            _ => Err(PickleError::Stack),
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            op::PROTO => match self.byte()? {
                0..=PROTOCOL_MAX => {}
                newer => return Err(PickleError::Protocol(newer)),
            },
            // Only says how far a reader may look ahead.
            op::FRAME => {
                let length = u64::from_le_bytes(self.fixed()?);
                if usize::try_from(length).map_or(true, |length| length > self.code.len()) {
                    return Err(PickleError::Truncated);
                }
            }
            op::NONE => self.push(Node::None)?,
            op::NEWTRUE => self.push(Node::Bool(true))?,
            op::NEWFALSE => self.push(Node::Bool(false))?,
            op::BININT => {
                let number = i32::from_le_bytes(self.fixed()?);
                self.push(Node::Int(number.into()))?;
            }
            op::BININT1 => {
                let number = self.byte()?;
                self.push(Node::Int(number.into()))?;
            }
            op::BININT2 => {
                let number = u16::from_le_bytes(self.fixed()?);
                self.push(Node::Int(number.into()))?;
            }
            op::LONG1 => {
                let number = self.long()?;
                self.push(Node::Int(number))?;
            }
            op::BINFLOAT => {
                self.fixed::<8>()?;
                self.push(Node::Opaque)?;
            }
            op::SHORT_BINBYTES => {
                let length = self.byte()?;
                self.bytes(length.into())?;
                self.push(Node::Opaque)?;
            }
            op::SHORT_BINUNICODE => {
                let length = self.byte()?;
                self.text(length.into())?;
            }
            op::BINUNICODE => {
                let length = u32::from_le_bytes(self.fixed()?);
                self.text(usize::try_from(length).unwrap_or(usize::MAX))?;
            }
            op::MEMOIZE => self.memo.push(self.top()?),
            op::BINGET => {
                let index = self.byte()?;
                self.recall(index.into())?;
            }
            op::LONG_BINGET => {
                let index = u32::from_le_bytes(self.fixed()?);
                self.recall(index)?;
            }
            op::MARK => self.marks.push(self.stack.len()),
            op::EMPTY_TUPLE => self.push(Node::Tuple(Vec::new()))?,
            op::TUPLE1 => self.tuple(1)?,
            op::TUPLE2 => self.tuple(2)?,
            op::TUPLE3 => self.tuple(3)?,
            op::TUPLE => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items))?;
            }
            op::EMPTY_LIST => self.push(Node::List)?,
            op::APPEND => {
                self.pop()?;
                self.expect_list()?;
            }
            op::APPENDS => {
                self.pop_to_mark()?;
                self.expect_list()?;
            }
            op::EMPTY_DICT => self.push(Node::Dict(Vec::new()))?,
            op::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.top_dict()?.push((key, value));
            }
            op::SETITEMS => {
                let items = self.pop_to_mark()?;
                let (pairs, rest) = items.as_chunks::<2>();
                if !rest.is_empty() {
                    return Err(PickleError::Stack);
                }
                self.top_dict()?.extend(pairs.iter().map(|[key, value]| (*key, *value)));
            }
            op::STACK_GLOBAL => {
                let name = self.pop_text()?;
                let module = self.pop_text()?;
                self.push(Node::Class(Class::find(module, name)?))?;
            }
            op::REDUCE | op::NEWOBJ => self.object()?,
            op::BUILD => {
                let state = self.pop()?;
                match self.top_node()? {
                    Node::Object(object) if object.state.is_none() => object.state = Some(state),
                    _ => return Err(PickleError::Stack),
                }
            }
            other => return Err(PickleError::Opcode(other)),
        }
        Ok(())
    }

    /// Makes an object of a class and a tuple of arguments.
    fn object(&mut self) -> Result<(), PickleError> {
        let arguments = self.pop()?;
        let class = self.pop()?;
        match (self.node(class)?, self.node(arguments)?) {
            (Node::Class(class), Node::Tuple(_)) => {
                let class = *class;
                self.push(Node::Object(Object { class, arguments, state: None }))
            }
            _ => Err(PickleError::Stack),
        }
    }

    fn tuple(&mut self, length: usize) -> Result<(), PickleError> {
        let from = self.stack.len().checked_sub(length).ok_or(PickleError::Stack)?;
        self.above_mark(from)?;
        let items = self.stack.split_off(from);
        self.push(Node::Tuple(items))
    }

    /// The two's complement, little-endian number of `LONG1`.
    fn long(&mut self) -> Result<i64, PickleError> {
        let length = self.byte()?;
        let bytes = self.bytes(length.into())?;
        let Some(last) = bytes.last() else { return Ok(0) };
        let mut wide = if last & 0x80 == 0 { [0; 8] } else { [0xff; 8] };
        wide.get_mut(..bytes.len()).ok_or(PickleError::Integer)?.copy_from_slice(bytes);
        Ok(i64::from_le_bytes(wide))
    }

    fn text(&mut self, length: usize) -> Result<(), PickleError> {
        let bytes = self.bytes(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| PickleError::Utf8)?;
        self.push(Node::Str(text))
    }

    fn recall(&mut self, index: u32) -> Result<(), PickleError> {
        let index = usize::try_from(index).map_err(|_| PickleError::Stack)?;
        let id = self.memo.get(index).ok_or(PickleError::Stack)?;
        self.stack.push(*id);
        Ok(())
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), PickleError> {
        // Fewer nodes than bytes, and few of those.
        let id = NodeId::try_from(self.nodes.len()).map_err(|_| PickleError::Stack)?;
        self.nodes.push(node);
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<NodeId, PickleError> {
        self.above_mark(self.stack.len().checked_sub(1).ok_or(PickleError::Stack)?)?;
        self.stack.pop().ok_or(PickleError::Stack)
    }

    fn pop_text(&mut self) -> Result<&'a str, PickleError> {
        let id = self.pop()?;
        match self.node(id)? {
            Node::Str(text) => Ok(*text),
            _ => Err(PickleError::Stack),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<NodeId>, PickleError> {
        let mark = self.marks.pop().ok_or(PickleError::Stack)?;
        Ok(self.stack.split_off(mark))
    }

    /// What lies below a mark may not be taken before the mark is.
    fn above_mark(&self, height: usize) -> Result<(), PickleError> {
        if self.marks.last().is_some_and(|mark| height < *mark) { Err(PickleError::Stack) } else { Ok(()) }
    }

    fn top(&self) -> Result<NodeId, PickleError> {
        self.stack.last().copied().ok_or(PickleError::Stack)
    }

    fn top_node(&mut self) -> Result<&mut Node<'a>, PickleError> {
        let index = usize::try_from(self.top()?).map_err(|_| PickleError::Stack)?;
        self.nodes.get_mut(index).ok_or(PickleError::Stack)
    }

    fn top_dict(&mut self) -> Result<&mut Vec<(NodeId, NodeId)>, PickleError> {
        match self.top_node()? {
            Node::Dict(pairs) => Ok(pairs),
            _ => Err(PickleError::Stack),
        }
    }

    fn expect_list(&mut self) -> Result<(), PickleError> {
        if matches!(self.top_node()?, Node::List) { Ok(()) } else { Err(PickleError::Stack) }
    }

    fn node(&self, id: NodeId) -> Result<&Node<'a>, PickleError> {
        let index = usize::try_from(id).map_err(|_| PickleError::Stack)?;
        self.nodes.get(index).ok_or(PickleError::Stack)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        let (&first, rest) = self.code.split_first().ok_or(PickleError::Truncated)?;
        self.code = rest;
        Ok(first)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let (taken, rest) = self.code.split_first_chunk().ok_or(PickleError::Truncated)?;
        self.code = rest;
        Ok(*taken)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], PickleError> {
        let (taken, rest) = self.code.split_at_checked(length).ok_or(PickleError::Truncated)?;
        self.code = rest;
        Ok(taken)
    }
}
