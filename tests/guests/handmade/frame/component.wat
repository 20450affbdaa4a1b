;; The component around every handmade guest: the types of the contract, and `process` of the core instance `$main`.
(component
    (import "sluicegate:guest/types@0.1.0" (instance $types
        (type $i (record (field "milliseconds" u64) (field "sequence" u64)))
        (export "entry-id" (type $id (eq $i)))
        (type $e (record (field "id" $id) (field "fields" (list (tuple string string)))))
        (export "entry" (type $entry (eq $e)))
        (type $v (record (field "event-id" string) (field "time" s64) (field "event-type" string)
            (field "user-id" string) (field "properties" (option string))))
        (export "event" (type $event (eq $v)))
        (type $w (record (field "path" string) (field "code" string) (field "message" string)))
        (export "violation" (type $violation (eq $w)))
        (type $x (variant (case "accept" $event) (case "expand" (list $event))
            (case "reject" (list $violation)) (case "discard" string)))
        (export "verdict" (type $verdict (eq $x)))))
    (alias export $types "entry" (type $entry))
    (alias export $types "verdict" (type $verdict))
    {parts}
    (core instance $main (instantiate $honest))
    (func $process (param "batch" (list $entry)) (result (list $verdict))
        (canon lift (core func $main "process") (memory $main "memory") (realloc (func $main "realloc"))))
    (instance $handler (export "process" (func $process)))
    (export "sluicegate:guest/handler@0.1.0" (instance $handler)))
