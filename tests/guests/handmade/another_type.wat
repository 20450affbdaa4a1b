;; Exports a `process` that gets no batch. Refused at load.
(component
    (core module $m
        (memory (export "memory") 1)
        (func (export "process") (result i32) (i32.const 8)))
    (core instance $main (instantiate $m))
    (func $process (result (list string)) (canon lift (core func $main "process") (memory $main "memory")))
    (instance $handler (export "process" (func $process)))
    (export "sluicegate:guest/handler@0.1.0" (instance $handler)))
