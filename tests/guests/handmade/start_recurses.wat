;; Its start-up code calls itself for ever. Refused at load by GUEST_STACK_BYTES.
(func $f (call $f))
(start $f)
(func $provoked (param i32))
