-- A message of another agent is nearly always of one device, which is listed once.

-- migrate: up
ALTER TABLE message_deliveries
    COMMENT COLUMN instant_devices 'Where device_id is zeros: the device of all instants, or that of each of the instants, then of the counter_instants and the volume_instants';

-- migrate: down
ALTER TABLE message_deliveries
    COMMENT COLUMN instant_devices 'The device of each of the instants, then of the counter_instants and the volume_instants, where device_id is zeros';
