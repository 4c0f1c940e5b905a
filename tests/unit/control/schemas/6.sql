BEGIN TRANSACTION;
CREATE TABLE access_keys (
	access_key_id TEXT NOT NULL, 
	sealed_secret BLOB NOT NULL, 
	created_at_s FLOAT NOT NULL, 
	PRIMARY KEY (access_key_id)
);
INSERT INTO "access_keys" VALUES('AKIATDNEWNVY7C7ALHW7',X'1C2F29AB04F7C465FBABC41DF0FA8DC7B39D323D6A1EAC0E55B07ABE06C5E9A36A2D4427A2F931B7A828F6596581F9BBB2268BC11583BDDB8749262E4D68AB5CA797A0C1',1.79549708116858577726e+09);
CREATE TABLE carried_figures (
	subject TEXT NOT NULL, 
	packets BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	written_packets BIGINT NOT NULL, 
	written_bytes BIGINT NOT NULL, 
	PRIMARY KEY (subject)
);
INSERT INTO "carried_figures" VALUES('tms-1baf0719a461dc3c1',7,700,0,0);
INSERT INTO "carried_figures" VALUES('101 10.0.0.20 10.0.0.12',6,600,6,600);
CREATE TABLE ended_sessions (
	session_id TEXT NOT NULL, 
	sent_packets BIGINT NOT NULL, 
	sent_bytes BIGINT NOT NULL, 
	ended_at_s FLOAT NOT NULL, 
	PRIMARY KEY (session_id)
);
INSERT INTO "ended_sessions" VALUES('tms-764d58cafe33260cf',5,500,1.79549708171667146685e+09);
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
INSERT INTO "filter_rules" VALUES('tmfr-69a6cd769c7a5070d','tmf-137ee9c0662260e7a','ingress',10,'accept','10.0.0.0/8','0.0.0.0/0',6,NULL,NULL,22,22,'ssh');
CREATE TABLE filters (
	filter_id TEXT NOT NULL, 
	services TEXT NOT NULL, 
	description TEXT, 
	PRIMARY KEY (filter_id)
);
INSERT INTO "filters" VALUES('tmf-137ee9c0662260e7a','amazon-dns',NULL);
CREATE TABLE host_certificates (
	serial TEXT NOT NULL, 
	host_id TEXT NOT NULL, 
	ends_at_s FLOAT NOT NULL, 
	revoked_at_s FLOAT, 
	PRIMARY KEY (serial)
);
INSERT INTO "host_certificates" VALUES('28a696a56e83374495a0c2ef0b8ec92969289dce','host-2',1798089082.0,NULL);
CREATE TABLE hosts (
	host_id TEXT NOT NULL, 
	agent_version TEXT NOT NULL, 
	reported_at_s FLOAT NOT NULL, 
	PRIMARY KEY (host_id)
);
INSERT INTO "hosts" VALUES('host-1','test',1.79549708139227247238e+09);
CREATE TABLE idempotency_tokens (
	token_key TEXT NOT NULL, 
	fingerprint TEXT NOT NULL, 
	result TEXT NOT NULL, 
	created_at_s FLOAT NOT NULL, 
	PRIMARY KEY (token_key)
);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorFilter/once','296cfa9c63de6a4b35659f4d7e08c634a9ec63c2b772fd3ea6f6665b8f729a21','{"TrafficMirrorFilter":{"TrafficMirrorFilterId":"tmf-137ee9c0662260e7a","Description":null,"IngressFilterRules":[],"EgressFilterRules":[],"NetworkServices":[],"Tags":[{"Key":"Name","Value":"ssh – all"}]},"ClientToken":"once"}',1.79549708157311272618e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorFilterRule/7907cbaa-3a57-4efd-a9f4-df0a70a31e62','8832a9051170bd2901b9a35053fd56972e10e811a522dfbe29f0d41f811aa5f2','{"TrafficMirrorFilterRule":{"TrafficMirrorFilterRuleId":"tmfr-69a6cd769c7a5070d","TrafficMirrorFilterId":"tmf-137ee9c0662260e7a","TrafficDirection":"ingress","RuleNumber":10,"RuleAction":"accept","Protocol":6,"DestinationPortRange":{"FromPort":22,"ToPort":22},"SourcePortRange":null,"DestinationCidrBlock":"0.0.0.0/0","SourceCidrBlock":"10.0.0.0/8","Description":"ssh"},"ClientToken":"7907cbaa-3a57-4efd-a9f4-df0a70a31e62"}',1.79549708159851217274e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorTarget/d9fda0c4-c863-44d3-92e1-0525e911eedb','02fd158d5e5b8f41ba6fc472758ac7197439f17db85392101a56c82308f612d1','{"TrafficMirrorTarget":{"TrafficMirrorTargetId":"tmt-38d170fb86dc8ccb8","Description":"collector","OwnerId":"112522802531","Tags":[],"Type":"network-interface","NetworkInterfaceId":"eni-4e431e31263acd335"},"ClientToken":"d9fda0c4-c863-44d3-92e1-0525e911eedb"}',1.79549708160755515104e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorTarget/b0a6c198-db62-4cb2-a7e9-c16b2b75c4fd','e2115de976b7273de53ade84b008bc6be7372818d10314baf568b0bd135ab81e','{"TrafficMirrorTarget":{"TrafficMirrorTargetId":"tmt-688944b6481b9d660","Description":null,"OwnerId":"112522802531","Tags":[],"Type":"network-load-balancer","NetworkLoadBalancerArn":"arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/NLB/7cdec873EXAMPLE"},"ClientToken":"b0a6c198-db62-4cb2-a7e9-c16b2b75c4fd"}',1.79549708161424922949e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorTarget/d5408a6e-c358-4635-a66e-cf15a1949280','d21cf90105fa961ab47e1ccf12c2d8ffdc8614bfc8ea6723b7411f354bfac23e','{"TrafficMirrorTarget":{"TrafficMirrorTargetId":"tmt-16c4c59163e2771bd","Description":null,"OwnerId":"112522802531","Tags":[],"Type":"gateway-load-balancer-endpoint","GatewayLoadBalancerEndpointId":"vpce-0123456789abcdef0"},"ClientToken":"d5408a6e-c358-4635-a66e-cf15a1949280"}',1.79549708161844015115e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorSession/1fb35aaa-3867-4036-8ad8-b15a7b2e4ba9','a614b871e8cf77fc6abb7e568190282b5b1a610d5b9f19f60d3734dd3dfd7781','{"TrafficMirrorSession":{"TrafficMirrorSessionId":"tms-1baf0719a461dc3c1","TrafficMirrorTargetId":"tmt-38d170fb86dc8ccb8","TrafficMirrorFilterId":"tmf-137ee9c0662260e7a","NetworkInterfaceId":"eni-81a048bf37662fe50","OwnerId":"112522802531","PacketLength":128,"SessionNumber":1,"VirtualNetworkId":101,"Description":"kept","Tags":[{"Key":"pktmirror:packets-per-second","Value":"1000"}]},"ClientToken":"1fb35aaa-3867-4036-8ad8-b15a7b2e4ba9"}',1.79549708162301540378e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorSession/03c90ce6-3fb5-455c-a04b-4ebe9e7c082e','108702f63fe6f3967ada114bdbc2b7dacd99420f305c76242fc5261dad972811','{"TrafficMirrorSession":{"TrafficMirrorSessionId":"tms-764d58cafe33260cf","TrafficMirrorTargetId":"tmt-38d170fb86dc8ccb8","TrafficMirrorFilterId":"tmf-137ee9c0662260e7a","NetworkInterfaceId":"eni-bbc05dba391da4ad2","OwnerId":"112522802531","PacketLength":null,"SessionNumber":1,"VirtualNetworkId":102,"Description":null,"Tags":[]},"ClientToken":"03c90ce6-3fb5-455c-a04b-4ebe9e7c082e"}',1.79549708163344860075e+09);
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
INSERT INTO "interfaces" VALUES('eni-81a048bf37662fe50','host-1','netns:web/eth0','{"key":"netns:web/eth0","provider":"netns","instance":"web","name":"eth0","device":"web0","kind":"veth","mac":"02:00:00:00:00:03","addresses":["10.0.0.10"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[]}',NULL,'10.0.0.20');
INSERT INTO "interfaces" VALUES('eni-bbc05dba391da4ad2','host-1','netns:db/eth0','{"key":"netns:db/eth0","provider":"netns","instance":"db","name":"eth0","device":"db0","kind":"veth","mac":"02:00:00:00:00:02","addresses":["10.0.0.11"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[]}',NULL,NULL);
INSERT INTO "interfaces" VALUES('eni-4e431e31263acd335','host-1','netns:mon/eth0','{"key":"netns:mon/eth0","provider":"netns","instance":"mon","name":"eth0","device":"mon0","kind":"veth","mac":"02:00:00:00:00:03","addresses":["10.0.0.12"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[]}',NULL,NULL);
CREATE TABLE join_tokens (
	token_id TEXT NOT NULL, 
	digest BLOB NOT NULL, 
	host_id TEXT, 
	expires_at_s FLOAT NOT NULL, 
	used_by TEXT, 
	PRIMARY KEY (token_id)
);
INSERT INTO "join_tokens" VALUES('Es75XI2d2N8',X'46C62CA6DE924FA8F702EC6C1068391E08483BF92754876413D891990DF8AC90','host-2',1.79549768200277304643e+09,'host-2');
INSERT INTO "join_tokens" VALUES('9P5f5GxLO9o',X'3E8E4255AE39EFC4E62ED7DB8911D57F0B6A6C90D77D20C758F83AEB2D0CBB83','host-3',1.79549768204553294179e+09,NULL);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	written_by TEXT, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(6,'0.1.0');
CREATE TABLE session_streams (
	entry TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	vni INTEGER NOT NULL, 
	outer_source TEXT NOT NULL, 
	outer_destination TEXT NOT NULL, 
	PRIMARY KEY (entry)
);
INSERT INTO "session_streams" VALUES('tms-1baf0719a461dc3c1 101 10.0.0.20 10.0.0.12','tms-1baf0719a461dc3c1',101,'10.0.0.20','10.0.0.12');
INSERT INTO "session_streams" VALUES('tms-764d58cafe33260cf 102 10.0.0.11 10.0.0.12','tms-764d58cafe33260cf',102,'10.0.0.11','10.0.0.12');
CREATE TABLE session_templates (
	name TEXT NOT NULL, 
	selector TEXT NOT NULL, 
	target_id TEXT NOT NULL, 
	filter_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	sessions_max INTEGER NOT NULL, 
	vni INTEGER, 
	packet_bytes_max INTEGER, 
	description TEXT, 
	tags TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "session_templates" VALUES('office/db','{"host":"nobody*"}','tmt-38d170fb86dc8ccb8','tmf-137ee9c0662260e7a',5,10,NULL,NULL,NULL,'{"team":"red"}');
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
INSERT INTO "sessions" VALUES('tms-1baf0719a461dc3c1','eni-81a048bf37662fe50','tmt-38d170fb86dc8ccb8','tmf-137ee9c0662260e7a',1,101,128,'kept');
CREATE TABLE settings (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "settings" VALUES('account_id','112522802531');
INSERT INTO "settings" VALUES('revision','9');
INSERT INTO "settings" VALUES('networks_file','6848ac615d97e6bb41c69ddda7ad85c431325128c47a7f6e39426c5dbcb31887');
INSERT INTO "settings" VALUES('networks','{"vpc":[{"name":"office","cidr":"10.0.0.0/16","ipv6_cidr":null,"resolvers":null,"underlay":{"route_table":254,"device":null,"mtu_max":null,"outer_source":"eni","segmentation":"auto","family":null},"subnet":[{"name":"a","cidr":"10.0.0.0/24","ipv6_cidr":null,"zone":null}]}],"interface":[{"host":"host-1","key":"netns:web/eth0","address":"10.0.0.20"}]}');
CREATE TABLE tags (
	resource_id TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (resource_id, "key")
);
INSERT INTO "tags" VALUES('tmf-137ee9c0662260e7a','Name','ssh – all');
INSERT INTO "tags" VALUES('tms-1baf0719a461dc3c1','pktmirror:packets-per-second','1000');
CREATE TABLE targets (
	target_id TEXT NOT NULL, 
	type TEXT NOT NULL, 
	resource TEXT NOT NULL, 
	description TEXT, 
	PRIMARY KEY (target_id)
);
INSERT INTO "targets" VALUES('tmt-38d170fb86dc8ccb8','network-interface','eni-4e431e31263acd335','collector');
INSERT INTO "targets" VALUES('tmt-688944b6481b9d660','network-load-balancer','arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/NLB/7cdec873EXAMPLE',NULL);
INSERT INTO "targets" VALUES('tmt-16c4c59163e2771bd','gateway-load-balancer-endpoint','vpce-0123456789abcdef0',NULL);
CREATE TABLE unconfirmed_ends (
	session_id TEXT NOT NULL, 
	host_id TEXT NOT NULL, 
	revision BIGINT NOT NULL, 
	ended_at_s FLOAT NOT NULL, 
	PRIMARY KEY (session_id)
);
INSERT INTO "unconfirmed_ends" VALUES('tms-764d58cafe33260cf','host-1',9,1.79549708171667146685e+09);
CREATE INDEX ix_idempotency_tokens_created_at_s ON idempotency_tokens (created_at_s);
CREATE INDEX ix_targets_resource ON targets (resource);
CREATE INDEX ix_session_streams_session_id ON session_streams (session_id);
CREATE INDEX ix_session_streams_vni ON session_streams (vni);
CREATE INDEX ix_unconfirmed_ends_host_id ON unconfirmed_ends (host_id);
CREATE INDEX ix_join_tokens_host_id ON join_tokens (host_id);
CREATE INDEX ix_host_certificates_host_id ON host_certificates (host_id);
CREATE INDEX ix_sessions_filter_id ON sessions (filter_id);
CREATE INDEX ix_sessions_vni ON sessions (vni);
CREATE INDEX ix_sessions_target_id ON sessions (target_id);
COMMIT;
