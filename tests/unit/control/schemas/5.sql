BEGIN TRANSACTION;
CREATE TABLE access_keys (
	access_key_id TEXT NOT NULL, 
	sealed_secret BLOB NOT NULL, 
	created_at_s FLOAT NOT NULL, 
	PRIMARY KEY (access_key_id)
);
INSERT INTO "access_keys" VALUES('AKIAB6JGII2FNYA66BMB',X'38E620111355289029F94C724E9D7BE0D771545160700DB8A384AC14D0AE03097E69D1C0A89E3DAD4879C6EF2182EA98FCF681769C7DC9F72E60A7F6C6AEE003005AEBCD',1.79549699405630230905e+09);
CREATE TABLE carried_figures (
	subject TEXT NOT NULL, 
	packets BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	written_packets BIGINT NOT NULL, 
	written_bytes BIGINT NOT NULL, 
	PRIMARY KEY (subject)
);
INSERT INTO "carried_figures" VALUES('tms-fab94070bbb071bed',7,700,0,0);
INSERT INTO "carried_figures" VALUES('101 10.0.0.20 10.0.0.12',6,600,6,600);
CREATE TABLE ended_sessions (
	session_id TEXT NOT NULL, 
	sent_packets BIGINT NOT NULL, 
	sent_bytes BIGINT NOT NULL, 
	ended_at_s FLOAT NOT NULL, 
	PRIMARY KEY (session_id)
);
INSERT INTO "ended_sessions" VALUES('tms-bb15d25f33ad4b822',5,500,1.79549699469086027148e+09);
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
INSERT INTO "filter_rules" VALUES('tmfr-ab4a3182e811af3fb','tmf-9652918ba266790c5','ingress',10,'accept','10.0.0.0/8','0.0.0.0/0',6,NULL,NULL,22,22,'ssh');
CREATE TABLE filters (
	filter_id TEXT NOT NULL, 
	services TEXT NOT NULL, 
	description TEXT, 
	PRIMARY KEY (filter_id)
);
INSERT INTO "filters" VALUES('tmf-9652918ba266790c5','amazon-dns',NULL);
CREATE TABLE host_certificates (
	serial TEXT NOT NULL, 
	host_id TEXT NOT NULL, 
	ends_at_s FLOAT NOT NULL, 
	revoked_at_s FLOAT, 
	PRIMARY KEY (serial)
);
INSERT INTO "host_certificates" VALUES('4b70a00c4f878160d245967d0fa32b74bdc4c885','host-2',1798088995.0,NULL);
CREATE TABLE hosts (
	host_id TEXT NOT NULL, 
	agent_version TEXT NOT NULL, 
	reported_at_s FLOAT NOT NULL, 
	PRIMARY KEY (host_id)
);
INSERT INTO "hosts" VALUES('host-1','test',1.79549699428648424151e+09);
CREATE TABLE idempotency_tokens (
	token_key TEXT NOT NULL, 
	fingerprint TEXT NOT NULL, 
	result TEXT NOT NULL, 
	created_at_s FLOAT NOT NULL, 
	PRIMARY KEY (token_key)
);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorFilter/once','296cfa9c63de6a4b35659f4d7e08c634a9ec63c2b772fd3ea6f6665b8f729a21','{"TrafficMirrorFilter":{"TrafficMirrorFilterId":"tmf-9652918ba266790c5","Description":null,"IngressFilterRules":[],"EgressFilterRules":[],"NetworkServices":[],"Tags":[{"Key":"Name","Value":"ssh – all"}]},"ClientToken":"once"}',1795496994.47595);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorFilterRule/bd46255f-972a-4219-82d8-3082e46e9f1d','5e2b62b7461f488037856560a777e4ce3ef5376b397c8384f0be63c3d54eb782','{"TrafficMirrorFilterRule":{"TrafficMirrorFilterRuleId":"tmfr-ab4a3182e811af3fb","TrafficMirrorFilterId":"tmf-9652918ba266790c5","TrafficDirection":"ingress","RuleNumber":10,"RuleAction":"accept","Protocol":6,"DestinationPortRange":{"FromPort":22,"ToPort":22},"SourcePortRange":null,"DestinationCidrBlock":"0.0.0.0/0","SourceCidrBlock":"10.0.0.0/8","Description":"ssh"},"ClientToken":"bd46255f-972a-4219-82d8-3082e46e9f1d"}',1.79549699450657391543e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorTarget/5641b782-a62a-4a74-9348-15afef269767','d2b1c5e61586ae6b317fea4fedaa8ff2ed6988dc1bde08bb44ea0ec698397261','{"TrafficMirrorTarget":{"TrafficMirrorTargetId":"tmt-bae7c58903017c111","Description":"collector","OwnerId":"293732088907","Tags":[],"Type":"network-interface","NetworkInterfaceId":"eni-9a2f6950944284505"},"ClientToken":"5641b782-a62a-4a74-9348-15afef269767"}',1.79549699452146244052e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorTarget/b92f51dc-9a52-4d1e-9188-b8b3411996a8','e2115de976b7273de53ade84b008bc6be7372818d10314baf568b0bd135ab81e','{"TrafficMirrorTarget":{"TrafficMirrorTargetId":"tmt-bac8f0fbe04b3dd50","Description":null,"OwnerId":"293732088907","Tags":[],"Type":"network-load-balancer","NetworkLoadBalancerArn":"arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/NLB/7cdec873EXAMPLE"},"ClientToken":"b92f51dc-9a52-4d1e-9188-b8b3411996a8"}',1.79549699453013253207e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorTarget/2cefa94b-dc60-4f7e-b39f-c5c7d1fb8822','d21cf90105fa961ab47e1ccf12c2d8ffdc8614bfc8ea6723b7411f354bfac23e','{"TrafficMirrorTarget":{"TrafficMirrorTargetId":"tmt-e7d94e77b9643d647","Description":null,"OwnerId":"293732088907","Tags":[],"Type":"gateway-load-balancer-endpoint","GatewayLoadBalancerEndpointId":"vpce-0123456789abcdef0"},"ClientToken":"2cefa94b-dc60-4f7e-b39f-c5c7d1fb8822"}',1.79549699453663706783e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorSession/fcdf3451-72b1-4de6-be9e-8ec917f9d20d','4980c14d5bb454c7f73959cf93a5f96aa06dc3ad44730f264214cfbf0429528c','{"TrafficMirrorSession":{"TrafficMirrorSessionId":"tms-fab94070bbb071bed","TrafficMirrorTargetId":"tmt-bae7c58903017c111","TrafficMirrorFilterId":"tmf-9652918ba266790c5","NetworkInterfaceId":"eni-6845219bdc52e4420","OwnerId":"293732088907","PacketLength":128,"SessionNumber":1,"VirtualNetworkId":101,"Description":"kept","Tags":[{"Key":"pktmirror:packets-per-second","Value":"1000"}]},"ClientToken":"fcdf3451-72b1-4de6-be9e-8ec917f9d20d"}',1.79549699454416131975e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorSession/5c508a58-6ff9-40d7-afdd-1f118eba256e','86a517723612b2ff723b78392d27fbd610d76e544b7b5b3157112c5821d9af10','{"TrafficMirrorSession":{"TrafficMirrorSessionId":"tms-bb15d25f33ad4b822","TrafficMirrorTargetId":"tmt-bae7c58903017c111","TrafficMirrorFilterId":"tmf-9652918ba266790c5","NetworkInterfaceId":"eni-f4234119e8f4b5f94","OwnerId":"293732088907","PacketLength":null,"SessionNumber":1,"VirtualNetworkId":102,"Description":null,"Tags":[]},"ClientToken":"5c508a58-6ff9-40d7-afdd-1f118eba256e"}',1.79549699456077837948e+09);
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
INSERT INTO "interfaces" VALUES('eni-6845219bdc52e4420','host-1','netns:web/eth0','{"key":"netns:web/eth0","provider":"netns","instance":"web","name":"eth0","device":"web0","kind":"veth","mac":"02:00:00:00:00:03","addresses":["10.0.0.10"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[]}',NULL,'10.0.0.20');
INSERT INTO "interfaces" VALUES('eni-f4234119e8f4b5f94','host-1','netns:db/eth0','{"key":"netns:db/eth0","provider":"netns","instance":"db","name":"eth0","device":"db0","kind":"veth","mac":"02:00:00:00:00:02","addresses":["10.0.0.11"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[]}',NULL,NULL);
INSERT INTO "interfaces" VALUES('eni-9a2f6950944284505','host-1','netns:mon/eth0','{"key":"netns:mon/eth0","provider":"netns","instance":"mon","name":"eth0","device":"mon0","kind":"veth","mac":"02:00:00:00:00:03","addresses":["10.0.0.12"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[]}',NULL,NULL);
CREATE TABLE join_tokens (
	token_id TEXT NOT NULL, 
	digest BLOB NOT NULL, 
	host_id TEXT, 
	expires_at_s FLOAT NOT NULL, 
	used_by TEXT, 
	PRIMARY KEY (token_id)
);
INSERT INTO "join_tokens" VALUES('GGP8hN02XoM',X'08AAAA7FE9F1ABDFF11E5374DC351B9A0DBF245E5621937CE98C6264FDC845B2','host-2',1.79549759512518143653e+09,'host-2');
INSERT INTO "join_tokens" VALUES('oo1Nixvkfk8',X'3ACD85AC6BBFB334CCFA92EEAFF29E00635E8396C4E1B136B0F91A533ED5D2F5','host-3',1.79549759519067096713e+09,NULL);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	written_by TEXT, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(5,'0.1.0');
CREATE TABLE session_streams (
	entry TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	vni INTEGER NOT NULL, 
	outer_source TEXT NOT NULL, 
	outer_destination TEXT NOT NULL, 
	PRIMARY KEY (entry)
);
INSERT INTO "session_streams" VALUES('tms-fab94070bbb071bed 101 10.0.0.20 10.0.0.12','tms-fab94070bbb071bed',101,'10.0.0.20','10.0.0.12');
INSERT INTO "session_streams" VALUES('tms-bb15d25f33ad4b822 102 10.0.0.11 10.0.0.12','tms-bb15d25f33ad4b822',102,'10.0.0.11','10.0.0.12');
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
INSERT INTO "sessions" VALUES('tms-fab94070bbb071bed','eni-6845219bdc52e4420','tmt-bae7c58903017c111','tmf-9652918ba266790c5',1,101,128,'kept');
CREATE TABLE settings (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "settings" VALUES('account_id','293732088907');
INSERT INTO "settings" VALUES('revision','9');
INSERT INTO "settings" VALUES('networks_file','6848ac615d97e6bb41c69ddda7ad85c431325128c47a7f6e39426c5dbcb31887');
INSERT INTO "settings" VALUES('networks','{"vpc":[{"name":"office","cidr":"10.0.0.0/16","ipv6_cidr":null,"resolvers":null,"underlay":{"route_table":254,"device":null,"mtu_max":null,"outer_source":"eni","segmentation":"auto","family":null},"subnet":[{"name":"a","cidr":"10.0.0.0/24","ipv6_cidr":null,"zone":null}]}],"interface":[{"host":"host-1","key":"netns:web/eth0","address":"10.0.0.20"}]}');
CREATE TABLE tags (
	resource_id TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (resource_id, "key")
);
INSERT INTO "tags" VALUES('tmf-9652918ba266790c5','Name','ssh – all');
INSERT INTO "tags" VALUES('tms-fab94070bbb071bed','pktmirror:packets-per-second','1000');
CREATE TABLE targets (
	target_id TEXT NOT NULL, 
	type TEXT NOT NULL, 
	resource TEXT NOT NULL, 
	description TEXT, 
	PRIMARY KEY (target_id)
);
INSERT INTO "targets" VALUES('tmt-bae7c58903017c111','network-interface','eni-9a2f6950944284505','collector');
INSERT INTO "targets" VALUES('tmt-bac8f0fbe04b3dd50','network-load-balancer','arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/NLB/7cdec873EXAMPLE',NULL);
INSERT INTO "targets" VALUES('tmt-e7d94e77b9643d647','gateway-load-balancer-endpoint','vpce-0123456789abcdef0',NULL);
CREATE TABLE unconfirmed_ends (
	session_id TEXT NOT NULL, 
	host_id TEXT NOT NULL, 
	revision BIGINT NOT NULL, 
	ended_at_s FLOAT NOT NULL, 
	PRIMARY KEY (session_id)
);
INSERT INTO "unconfirmed_ends" VALUES('tms-bb15d25f33ad4b822','host-1',9,1.79549699469086027148e+09);
CREATE INDEX ix_idempotency_tokens_created_at_s ON idempotency_tokens (created_at_s);
CREATE INDEX ix_targets_resource ON targets (resource);
CREATE INDEX ix_session_streams_vni ON session_streams (vni);
CREATE INDEX ix_session_streams_session_id ON session_streams (session_id);
CREATE INDEX ix_unconfirmed_ends_host_id ON unconfirmed_ends (host_id);
CREATE INDEX ix_join_tokens_host_id ON join_tokens (host_id);
CREATE INDEX ix_host_certificates_host_id ON host_certificates (host_id);
CREATE INDEX ix_sessions_vni ON sessions (vni);
CREATE INDEX ix_sessions_target_id ON sessions (target_id);
CREATE INDEX ix_sessions_filter_id ON sessions (filter_id);
COMMIT;
