BEGIN TRANSACTION;
CREATE TABLE access_keys (
	access_key_id TEXT NOT NULL, 
	sealed_secret BLOB NOT NULL, 
	created_at_s FLOAT NOT NULL, 
	PRIMARY KEY (access_key_id)
);
INSERT INTO "access_keys" VALUES('AKIA5UNIVPDMF5KGRBQD',X'619DDCC5A41DA0EA833EAE69F5B00F2072BC4B2358493A827A5804067F5B26DDE040D209B3F33294C13B629869B1D6B637628E9D77FA655F44CB3B7DB8B0EEA7FEEB2D69',1700000000.0);
CREATE TABLE carried_figures (
	subject TEXT NOT NULL, 
	packets BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	written_packets BIGINT NOT NULL, 
	written_bytes BIGINT NOT NULL, 
	PRIMARY KEY (subject)
);
CREATE TABLE ended_sessions (
	session_id TEXT NOT NULL, 
	sent_packets BIGINT NOT NULL, 
	sent_bytes BIGINT NOT NULL, 
	ended_at_s FLOAT NOT NULL, 
	PRIMARY KEY (session_id)
);
INSERT INTO "ended_sessions" VALUES('tms-91e4fb2d47e2446fb',0,0,1700000001.0);
CREATE TABLE filter_rules (
	rule_id TEXT NOT NULL, 
	filter_id TEXT NOT NULL, 
	direction TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	action TEXT NOT NULL, 
	source TEXT NOT NULL, 
	destination TEXT NOT NULL, 
	protocol INTEGER, 
	source_port_first INTEGER, 
	source_port_last INTEGER, 
	destination_port_first INTEGER, 
	destination_port_last INTEGER, 
	description TEXT, 
	PRIMARY KEY (rule_id), 
	UNIQUE (filter_id, direction, number), 
	FOREIGN KEY(filter_id) REFERENCES filters (filter_id)
);
INSERT INTO "filter_rules" VALUES('tmfr-0a9997dcbf82b4694','tmf-87d36814a167c0b4a','ingress',10,'accept','10.0.0.0/8','0.0.0.0/0',6,NULL,NULL,22,22,'ssh');
CREATE TABLE filters (
	filter_id TEXT NOT NULL, 
	services TEXT NOT NULL, 
	description TEXT, 
	PRIMARY KEY (filter_id)
);
INSERT INTO "filters" VALUES('tmf-87d36814a167c0b4a','amazon-dns',NULL);
CREATE TABLE hosts (
	host_id TEXT NOT NULL, 
	agent_version TEXT NOT NULL, 
	reported_at_s FLOAT NOT NULL, 
	PRIMARY KEY (host_id)
);
INSERT INTO "hosts" VALUES('host-1','0.1.0',1700000000.0);
CREATE TABLE idempotency_tokens (
	token_key TEXT NOT NULL, 
	fingerprint TEXT NOT NULL, 
	result TEXT NOT NULL, 
	created_at_s FLOAT NOT NULL, 
	PRIMARY KEY (token_key)
);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorFilter/once','296cfa9c63de6a4b35659f4d7e08c634a9ec63c2b772fd3ea6f6665b8f729a21','{"TrafficMirrorFilter":{"TrafficMirrorFilterId":"tmf-87d36814a167c0b4a","Description":null,"IngressFilterRules":[],"EgressFilterRules":[],"NetworkServices":[],"Tags":[{"Key":"Name","Value":"ssh – all"}]},"ClientToken":"once"}',1700000001.0);
CREATE TABLE interfaces (
	interface_id TEXT NOT NULL, 
	host_id TEXT NOT NULL, 
	provider_key TEXT NOT NULL, 
	found TEXT NOT NULL, 
	detached_at_s FLOAT, 
	declared_address TEXT, 
	PRIMARY KEY (interface_id), 
	UNIQUE (host_id, provider_key)
);
INSERT INTO "interfaces" VALUES('eni-1184aab8da7db9aa6','host-1','netns:web/eth0','{"key":"netns:web/eth0","provider":"netns","instance":"web","name":"eth0","device":"web0","kind":"veth","mac":"02:00:00:00:00:01","addresses":["10.0.0.10"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[]}',NULL,NULL);
INSERT INTO "interfaces" VALUES('eni-b80c808f09c36f410','host-1','netns:db/eth0','{"key":"netns:db/eth0","provider":"netns","instance":"db","name":"eth0","device":"db0","kind":"veth","mac":"02:00:00:00:00:01","addresses":["10.0.0.11"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[]}',NULL,NULL);
INSERT INTO "interfaces" VALUES('eni-e39759350ea1bd08f','host-1','netns:mon/eth0','{"key":"netns:mon/eth0","provider":"netns","instance":"mon","name":"eth0","device":"mon0","kind":"veth","mac":"02:00:00:00:00:01","addresses":["10.0.0.12"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[]}',NULL,NULL);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(3);
CREATE TABLE session_streams (
	entry TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	vni INTEGER NOT NULL, 
	outer_source TEXT NOT NULL, 
	outer_destination TEXT NOT NULL, 
	PRIMARY KEY (entry)
);
INSERT INTO "session_streams" VALUES('tms-2a5b5568129208797 101 10.0.0.10 10.0.0.12','tms-2a5b5568129208797',101,'10.0.0.10','10.0.0.12');
INSERT INTO "session_streams" VALUES('tms-91e4fb2d47e2446fb 102 10.0.0.11 10.0.0.12','tms-91e4fb2d47e2446fb',102,'10.0.0.11','10.0.0.12');
CREATE TABLE sessions (
	session_id TEXT NOT NULL, 
	interface_id TEXT NOT NULL, 
	target_id TEXT NOT NULL, 
	filter_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	vni INTEGER NOT NULL, 
	packet_bytes_max INTEGER, 
	description TEXT, 
	PRIMARY KEY (session_id), 
	UNIQUE (interface_id, number), 
	FOREIGN KEY(interface_id) REFERENCES interfaces (interface_id), 
	FOREIGN KEY(target_id) REFERENCES targets (target_id), 
	FOREIGN KEY(filter_id) REFERENCES filters (filter_id)
);
INSERT INTO "sessions" VALUES('tms-2a5b5568129208797','eni-1184aab8da7db9aa6','tmt-bd3e1a531a8fb4af6','tmf-87d36814a167c0b4a',1,101,NULL,NULL);
CREATE TABLE settings (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "settings" VALUES('account_id','477432678519');
INSERT INTO "settings" VALUES('revision','9');
INSERT INTO "settings" VALUES('networks_file','6848ac615d97e6bb41c69ddda7ad85c431325128c47a7f6e39426c5dbcb31887');
INSERT INTO "settings" VALUES('networks','{"vpc":[{"name":"office","cidr":"10.0.0.0/16","ipv6_cidr":null,"resolvers":null,"underlay":{"route_table":254,"device":null,"mtu_max":null,"outer_source":"eni","segmentation":"auto","family":null},"subnet":[{"name":"a","cidr":"10.0.0.0/24","ipv6_cidr":null,"zone":null}]}],"interface":[]}');
CREATE TABLE tags (
	resource_id TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (resource_id, "key")
);
INSERT INTO "tags" VALUES('tmf-87d36814a167c0b4a','Name','ssh – all');
INSERT INTO "tags" VALUES('tms-2a5b5568129208797','pktmirror:packets-per-second','1000');
CREATE TABLE targets (
	target_id TEXT NOT NULL, 
	type TEXT NOT NULL, 
	resource TEXT NOT NULL, 
	description TEXT, 
	PRIMARY KEY (target_id)
);
INSERT INTO "targets" VALUES('tmt-bd3e1a531a8fb4af6','network-interface','eni-e39759350ea1bd08f','collector');
INSERT INTO "targets" VALUES('tmt-91001ad22900ffdf8','network-load-balancer','arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/NLB/7cdec873EXAMPLE',NULL);
CREATE INDEX ix_targets_resource ON targets (resource);
CREATE INDEX ix_session_streams_vni ON session_streams (vni);
CREATE INDEX ix_session_streams_session_id ON session_streams (session_id);
CREATE INDEX ix_sessions_target_id ON sessions (target_id);
CREATE INDEX ix_sessions_filter_id ON sessions (filter_id);
CREATE INDEX ix_sessions_vni ON sessions (vni);
COMMIT;
