//! The documents of calls.

use callosum::{Call, DEPTH_MAX, VALUES_MAX, Value, decode_body, encode_call};

use super::{check_held, values};
use crate::heap::measured;

/// A call keeps to the limits; written as a client writes it, it reads back; its arguments can be taken.
pub fn check(bytes: &[u8]) {
    let (read, held) = measured(|| Call::decode(bytes));
    check_held(held, bytes.len());
    let Ok(mut call) = read else { return };
    let parts = call.args.iter().chain(call.kwargs.iter().map(|(_, value)| value));
    assert!(parts.clone().all(|value| values::depth(value) <= DEPTH_MAX));
    assert!(parts.map(values::inner).sum::<usize>() + call.args.len() + 2 * call.kwargs.len() <= VALUES_MAX);

    let [_, frame] = encode_call("m", b"\xa0", 0, &call);
    let document = decode_body(&frame, false).ok().and_then(|body| body.body);
    let again = document.as_deref().map(Call::decode);
    let Some(Ok(again)) = again else { panic!("{again:?} of {call:?}") };
    assert_eq!(again.request_id, call.request_id);
    assert!(values::same(&Value::Array(again.args), &values::plain(&Value::Array(call.args.clone()))));
    let named = |kwargs: &[(String, Value)]| {
        Value::map(kwargs.iter().map(|(name, value)| (name.as_str(), value.clone())))
    };
    assert!(values::same(&named(&again.kwargs), &values::plain(&named(&call.kwargs))));

    for name in call.kwargs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>() {
        let last = call.kwargs.iter().rev().find(|(other, _)| *other == name).map(|(_, value)| value.clone());
        let taken = call.take(usize::MAX, &name);
        assert!(values::same(
            &Value::Array(taken.into_iter().collect()),
            &Value::Array(last.into_iter().collect())
        ));
    }
    assert!(call.kwargs.is_empty());
}
