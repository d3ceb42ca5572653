-- Trading sessions of the day.

CREATE TABLE market.market_sessions (
    session text NOT NULL,
    time_zone text NOT NULL,
    opens text NOT NULL,
    closes text NOT NULL,
    description text NOT NULL,
    CONSTRAINT market_sessions_session_check CHECK (session IN ('sydney', 'tokyo', 'london', 'new_york')),
    CONSTRAINT market_sessions_pkey PRIMARY KEY (session)
);

COMMENT ON TABLE market.market_sessions IS
    'Trading sessions of the day in local time; the open and close in UTC follow the city''s own clock.';
COMMENT ON COLUMN market.market_sessions.session IS
    'Name of the session.';
COMMENT ON COLUMN market.market_sessions.time_zone IS
    'IANA time zone of the city.';
COMMENT ON COLUMN market.market_sessions.opens IS
    'Local opening time, HH:MM.';
COMMENT ON COLUMN market.market_sessions.closes IS
    'Local closing time, HH:MM.';
COMMENT ON COLUMN market.market_sessions.description IS
    'For people.';

INSERT INTO market.market_sessions (session, time_zone, opens, closes, description) VALUES
    ('sydney', 'Australia/Sydney', '07:00', '16:00', 'Sydney: the week opens here.'),
    ('tokyo', 'Asia/Tokyo', '09:00', '18:00', 'Tokyo: yen and Asian currencies.'),
    ('london', 'Europe/London', '08:00', '17:00', 'London: the largest share of currency trading.'),
    ('new_york', 'America/New_York', '08:00', '17:00', 'New York: its close ends the trading day.');
